import { expect, test } from 'vitest';
import { contact } from '../testing/samples';
import {
  addHostCell, askedKey, fingerprintsOf, hostComplaints, hostName, hostRequest, NO_HOST, printing, reachedOf, suggestedHost, typed
} from './adding';

test('a name is suggested from the address', () => {
  for (const [target, name] of [
    ['ada@GPU-1.example.org:2222', 'gpu-1'],
    ['ssh://ada@box', 'box'],
    ['ada@10.0.0.7', 'host'],
    ['[::1]:22', 'host'],
    ['', '']
  ] as const) {
    expect(suggestedHost(target, ['local'])).toBe(name);
  }
  expect(suggestedHost('ada@box', ['local', 'box', 'box-2'])).toBe('box-3');
});

test('what is wrong is told by field', () => {
  expect(hostComplaints(NO_HOST, ['local']).target).toContain('ada@lab1.example.org');
  const draft = { ...NO_HOST, target: 'ada@box' };
  expect(hostComplaints(draft, ['local'])).toEqual({});
  expect(hostComplaints({ ...draft, name: 'local' }, ['local']).name).toContain('There is a place local already');
  expect(hostComplaints({ ...draft, name: 'My Box' }, ['local']).name).toContain('a-z');
  expect(hostComplaints({ ...draft, rate: 'cheap' }, ['local']).rate).toContain('0.50');
  expect(hostComplaints({ ...draft, rate: '$.5' }, ['local'])).toEqual({});
});

test('keys that were shown count for one way there only', () => {
  const draft = { ...NO_HOST, target: 'ada@box', met: contact(0) };
  expect(typed(draft, 'keyFile', '~/.ssh/other').met).not.toBeNull();
  expect(typed(draft, 'name', '').name).toBeNull();
  expect(typed(draft, 'target', 'ada@other').met).toBeNull();
  expect(typed(draft, 'jump', 'door').met).toBeNull();
});

test('the last key is asked about, and all are sent', () => {
  const met = contact(1, ['door', 'inner']);
  expect(askedKey(met)?.where).toBe('inner');
  for (const [kind, file] of [['ssh-ed25519', 'ed25519'], ['ssh-rsa', 'rsa'], ['ecdsa-sha2-nistp256', 'ecdsa']] as const) {
    expect(printing({ where: 'box', kind, fingerprint: '' })).toBe(`ssh-keygen -lf /etc/ssh/ssh_host_${file}_key.pub`);
  }
  expect(fingerprintsOf(met)).toEqual(['SHA256:door', 'SHA256:inner']);
  const draft = { ...NO_HOST, target: ' ada@inner ', keyFile: '~/key', jump: 'door', rate: '0.5' };
  expect(hostRequest(draft, ['local'], met)).toEqual({
    name: 'inner', target: 'ada@inner', keyFile: '~/key', jump: 'door', rate: '0.5',
    fingerprints: ['SHA256:door', 'SHA256:inner']
  });
  expect(reachedOf({ ...NO_HOST, target: 'box' })).toEqual({ target: 'box' });
  expect(hostName({ ...draft, name: ' mine ' }, [])).toBe('mine');
});

test('the form is written as a cell that asks about the key itself', () => {
  const draft = { ...NO_HOST, target: 'ada@box:2222', keyFile: '~/my key', jump: 'door', rate: '0.50' };
  expect(addHostCell(draft, ['local'])?.().source).toBe(
    `%gpu host add box ada@box:2222 --key '~/my key' --jump door --rate 0.50`
  );
});
