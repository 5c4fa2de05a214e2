import { expect, test } from 'vitest';
import { cell } from '../verbs/cell';
import { EMPTY, complaint, folderOf, requestOf, suggestName, valuesOf } from './deployment';

test('a name is suggested from the model, as the magic does', () => {
  expect(suggestName('Qwen/Qwen2.5-0.5B-Instruct', [])).toBe('qwen2-5-0-5b-instruct');
  expect(suggestName('/data/models/tiny_llama/', [])).toBe('tiny-llama');
  expect(suggestName('', [])).toBe('');
  expect(suggestName(`x/${'ab'.repeat(50)}`, []).length).toBe(63);
});

test('a taken name gets a number', () => {
  expect(suggestName('a/chat', ['chat', 'chat-2'])).toBe('chat-3');
});

test('only the model must be typed', () => {
  expect(complaint(EMPTY, [])).toContain('Which model?');
  expect(complaint({ ...EMPTY, model: 'a/b' }, [])).toBeNull();
});

test('what is wrong is said as a sentence', () => {
  expect(complaint({ ...EMPTY, model: 'a/b', name: 'Not A Name' }, [])).toContain('a-z');
  expect(complaint({ ...EMPTY, model: 'a/b', name: 'chat' }, ['chat'])).toContain('exists already');
  expect(complaint({ ...EMPTY, model: 'a/b', workers: NaN }, [])).toContain('1 to 64');
});

test('the request and the cell say the same', () => {
  const draft = { ...EMPTY, model: ' a/b ', workers: 2, idleS: 300 };
  expect(requestOf(draft, [], 'lab1', '/home/ada')).toEqual({
    name: 'b',
    workers: { min: 0, max: 2, idleTimeout: 300 },
    nbgpu: { model: 'a/b', place: { on: 'lab1' }, cwd: '/home/ada' }
  });
  expect(cell('deploy', valuesOf(draft, [])).source).toBe('%gpu deploy a/b --name b --workers 2 --idle 5m');
  expect(cell('deploy', valuesOf({ ...EMPTY, model: 'a/b' }, [])).source).toBe('%gpu deploy a/b --name b');
});

test('a relative model counts from the folder of the notebook, in full', () => {
  expect(folderOf('/home/ada/work', 'lab/deep/a.ipynb')).toBe('/home/ada/work/lab/deep');
  expect(folderOf('/home/ada/work', 'a.ipynb')).toBe('/home/ada/work');
  expect(folderOf('/home/ada/work', '')).toBe('/home/ada/work');
  expect(folderOf('/', 'lab/a.ipynb')).toBe('/lab');
  expect(folderOf('/', '')).toBe('/');
});
