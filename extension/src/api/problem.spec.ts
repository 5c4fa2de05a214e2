import { expect, test } from 'vitest';
import { failure, ofBody, ofOpenAI, ofResponse } from './problem';

test('a problem document gives the sentence and the next step', () => {
  const found = ofBody(
    {
      detail: 'The name chat is taken. Choose another.',
      nbgpu: { code: 'name_taken', what: 'The name chat is taken.', next: 'Choose another.' }
    },
    409
  );
  expect([found.what, found.next, found.code]).toEqual(['The name chat is taken.', 'Choose another.', 'name_taken']);
});

test('the sentence stands alone where there are no parts', () => {
  expect(ofBody({ detail: 'No.' }, 400).message).toBe('No.');
});

test('a model without a chat template says what to do', () => {
  expect(ofOpenAI({ message: 'Cannot use chat template functions' }).next).toContain('Raw text');
});

test('what is no JSON still gives a sentence', async () => {
  expect((await ofResponse(new Response('<html>', { status: 502 }))).message).toContain('502');
});

test('a lost login says to reload', async () => {
  expect((await ofResponse(new Response('{}', { status: 403 }))).next).toBe('Reload the page.');
});

test('an unreachable Jupyter is named as such', () => {
  expect(failure(new TypeError('Failed to fetch')).what).toBe('Jupyter does not answer.');
});
