import { expect, test } from 'vitest';
import { changes, host, pod, row, stopped, summary, worker } from '../testing/samples';
import { fake } from '../testing/hands';
import {
  addressText, costText, gpusText, hostCell, hostRow, hostsText, loadOf, machineTexts, reasonOf, removal, runsText, useCell
} from './hosts';

const facts = host('lab1').facts!;

test('what a machine has is told in the words of the command line', () => {
  expect(machineTexts(facts)).toEqual(['2 × H100', '32 processors', '64.0 GB memory', '812 GB disk free']);
  expect(gpusText({ ...facts, gpus: ['A100', 'H100', 'A100'] })).toBe('2 × A100, H100');
  expect(gpusText({ ...facts, gpus: [] })).toBe('no GPU');
});

test('an address names the port only where it is another than 22', () => {
  expect(addressText(host('lab1'))).toBe('ada@lab1.example.org');
  expect(addressText(host('lab1', { port: 2222 }))).toBe('ada@lab1.example.org:2222');
  expect(addressText(host('lab1', { address: '', user: '' }))).toBe('');
});

test('what runs there is what is not stopped, and so is its price', () => {
  const found = summary(
    [
      row('chat', { on: 'lab1,local', workers: [
        worker('w-1', { place: 'lab1', ratePerHour: '1' }), worker('w-2', { place: 'lab1', state: 'parked' }), worker('w-4')
      ] }),
      row('asleep', { on: 'lab1' }),
      row('here', { workers: [worker('w-3')], ratePerHour: '5' })
    ],
    { pods: [pod('far', { on: 'lab1', ratePerHour: '0.5' }), stopped('old', { on: 'lab1', ratePerHour: '0.5' }), pod('near')] }
  );
  const load = loadOf('lab1', found);
  expect(runsText(load)).toBe('runs far, chat (1 worker)');
  expect(costText(host('lab1', { priced: true }), load)).toBe('$1.50/h');
  const none = loadOf('lab2', found);
  expect(runsText(none)).toBe('nothing runs there');
  expect(costText(host('lab2', { priced: true }), none)).toBe('$0/h');
  expect(costText(host('lab2'), none)).toBe('no price set');
});

test('one that is not connected says why and what to do', () => {
  expect(reasonOf(host('lab1', { sentence: 'The connection broke.' }))).toBe('');
  const away = host('lab1', { state: 'refused', sentence: 'It shows another key.', nextStep: 'Look at it there.' });
  expect(reasonOf(away)).toBe('It shows another key. Look at it there.');
  expect(hostsText(summary([], { hosts: [away, host('lab2')], place: 'lab2' }))).toBe('2 hosts, in use: lab2');
});

test('before it is removed, it is told what it has', () => {
  const found = summary([], { hosts: [host('lab1', { pods: ['far', 'old'] }), host('lab2')] });
  expect(removal('lab1', found).body).toContain('It has the pods far, old, which must be deleted first.');
  expect(removal('lab2', found).body).toBe('It is forgotten here; what was made there stays on its disk, in ~/.nbgpu.');
});

test('its actions are written as cells', () => {
  expect(hostCell('check', 'lab1')?.().source).toBe('%gpu host check lab1');
  expect(hostCell('rm', 'lab1')?.().source).toBe('%gpu host rm lab1');
  expect(useCell('local')?.().source).toBe('%gpu use local');
});

test('a host and a pod of the same name are two rows', async () => {
  const { client, hands } = fake(changes(1));
  client.actHost.mockResolvedValue(host('lab1', { findings: [{ what: 'GPUs', good: false, text: 'none', advice: '' }] }));
  await hands.actions.checkHost('lab1');
  expect(hands.actions.found.get('lab1')?.[0]?.what).toBe('GPUs');
  client.actHost.mockRejectedValue(new Error('It is not reached.'));
  await hands.actions.reconnectHost('lab1');
  expect(hands.actions.failed.get(hostRow('lab1'))?.what).toBe('It is not reached.');
  expect(hands.actions.failed.has('lab1')).toBe(false);
});
