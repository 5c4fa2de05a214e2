import { expect, test } from 'vitest';
import { fake } from '../testing/hands';
import { key, newKey, summary } from '../testing/samples';
import {
  addCell, complaints, KeyDraft, keysOf, limitsText, listCell, named, NO_KEY, revocation, usageText, usedText, wantedOf
} from './keys';

const draft = (change: Partial<KeyDraft> = {}) => ({ ...NO_KEY, ...change });

test('an empty form asks for a key without limits', () => {
  expect(complaints(draft())).toEqual({});
  expect(wantedOf('chat', draft())).toEqual({ endpoint: 'chat', label: '' });
});

test('what is typed is sent as numbers', () => {
  const typed = draft({ label: ' app ', perMinute: ' 60 ', atOnce: '4' });
  expect(complaints(typed)).toEqual({});
  expect(wantedOf('chat', typed)).toEqual({ endpoint: 'chat', label: 'app', perMinute: 60, atOnce: 4 });
});

test('what cannot be read is never taken for no limit', () => {
  for (const text of ['0', '-1', '1.5', 'many', '1e3', '1000001']) {
    expect(complaints(draft({ perMinute: text })).perMinute).toContain('from 1 to 1,000,000');
  }
  expect(complaints(draft({ atOnce: '100001' }))).toEqual({ atOnce: 'A number from 1 to 100,000; empty: no limit.' });
});

test('a label is short plain text', () => {
  expect(complaints(draft({ label: 'é🙂'.repeat(40) }))).toEqual({});
  expect(complaints(draft({ label: 'x'.repeat(81) })).label).toContain('80');
  expect(complaints(draft({ label: 'a\tb' })).label).toContain('one line');
});

test('limits are said in words', () => {
  expect(limitsText(key())).toBe('no limits');
  expect(limitsText(key({ perMinute: 6000, atOnce: 4 }))).toBe('6,000 a minute, 4 at once');
  expect(limitsText(key({ atOnce: 1 }))).toBe('1 at once');
});

test('the last use counts by the backend’s clock', () => {
  const looked = summary([], { atUs: 100_000_000 });
  const used = (usedUs: number | null) => usedText(key({ usedUs }), looked, 5000, 25_000);
  expect(used(null)).toBe('never used');
  expect(used(120_000_000)).toBe('used just now');
  expect(used(130_000_000)).toBe('used just now');
  expect(used(0)).toBe('used 2 min ago');
});

test('what came with a key is its own bill', () => {
  expect(usageText(key({ requests: 1, tokensIn: 1204, tokensOut: 96, cost: '0.41' }))).toBe(
    '1 request · 1,204 tokens in, 96 out · $0.41'
  );
});

test('whoever revokes is told which, and what goes on', () => {
  const { title, body } = revocation(key({ label: 'app' }));
  expect(title).toBe('Revoke app (nbgpu_AbCdEf…)?');
  expect(body).toContain('chat');
  expect(body).toContain('in progress goes on');
  expect(named(key())).toBe('nbgpu_AbCdEf…');
});

test('as cells: the list, and a new key whose secret stays out of the notebook', () => {
  expect(listCell('chat')?.().source).toBe('%gpu key ls chat');
  expect(addCell('chat', draft({ label: 'my app', perMinute: '60' })).source).toBe(
    "%gpu key add chat --label 'my app' --per-minute 60 -o new_key"
  );
});

test('a secret goes when the keys close, by whatever way', () => {
  const { view } = fake().hands;
  const ways: (() => void)[] = [
    () => view.toggle('chat'),
    () => view.toggle('other'),
    () => view.show('other'),
    () => view.keep(['other']) // chat was deleted
  ];
  for (const close of ways) {
    view.set({ open: 'chat', reveal: null, keys: keysOf('chat') });
    view.rekey('chat', { made: newKey() });
    expect(view.keys?.made?.secret).toBeTruthy();
    close();
    expect(view.keys).toBeNull();
    view.rekey('chat', { made: newKey() }); // an answer that comes late
    expect(view.keys).toBeNull();
  }
});

test('a secret that is shown stays while other endpoints come and go', () => {
  const { view } = fake().hands;
  view.set({ open: 'chat', keys: { ...keysOf('chat'), made: newKey() } });
  view.pick('other', true);
  view.keep(['chat']);
  expect(view.keys?.made).not.toBeNull();
});
