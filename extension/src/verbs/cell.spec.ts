import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { cell, example, known, lines, word } from './cell';

test('the verbs are those that the magics parse from', () => {
  const here = import.meta.dirname;
  expect(readFileSync(`${here}/verbs.json`, 'utf8')).toBe(
    readFileSync(`${here}/../../../magics/nbgpu/verbs.json`, 'utf8')
  );
});

test('a verb is a line', () => {
  expect(cell('stop', { name: 'chat' })).toEqual({ source: '%gpu stop chat', whole: false });
  expect(cell('status').source).toBe('%gpu status');
});

test('what is as by default is left out', () => {
  expect(cell('deploy', { model: 'a/b', name: 'b', on: null, idle: 60, workers: null }).source).toBe(
    '%gpu deploy a/b --name b'
  );
});

test('a verb with a text is a whole cell, and the text is taken as it stands', () => {
  expect(cell('ask', { name: 'chat', text: 'It\'s "so"\n$5 {x}', raw: true })).toEqual({
    source: '%%gpu ask chat --raw\nIt\'s "so"\n$5 {x}',
    whole: true
  });
});

test('words are quoted as a shell reads them, and as IPython does not fill them in', () => {
  expect(word('org/name-1.5')).toBe('org/name-1.5');
  expect(word('/a folder/it\'s')).toBe('\'/a folder/it\'"\'"\'s\'');
  expect(word('a{b}')).toBe("'a{{b}}'");
  expect(word('$HOME/x')).toBe("'$$HOME/x'");
});

test('an argument may be named by its flag, and is written once', () => {
  expect(cell('deploy', { model: 'a/b', '--always-on': 2, '--idle': 300 }).source).toBe(
    '%gpu deploy a/b --always-on 2 --idle 5m'
  );
  expect(() => cell('stop', { name: 'a', '--for': 3 })).toThrow('no argument --for');
});

test('what a notebook does not know is known as such', () => {
  expect(['stop', 'frobnicate', 'serve'].map(known)).toEqual([true, false, false]);
});

test('our own mistakes are told', () => {
  expect(() => cell('frobnicate')).toThrow('no verb');
  expect(() => cell('serve')).toThrow('no verb');
  expect(() => cell('start', {})).toThrow('needs name');
  expect(() => cell('stop', { nam: 'x' })).toThrow('no argument nam');
});

test('several lines are one cell', () => {
  expect(lines('stop', [{ name: 'a' }, { name: 'b' }]).source).toBe('%gpu stop a\n%gpu stop b');
});

test('an example names a variable that Python takes', () => {
  expect(example('chat').source).toContain('chat = nbgpu.connect().endpoint("chat")');
  expect(example('7b-chat').source).toContain('endpoint_7b_chat = ');
  expect(example('import').source).toContain('endpoint_import = ');
});

test('a word as by default is written where another stands behind it', () => {
  expect(cell('key', { action: 'ls', name: 'chat' }).source).toBe('%gpu key ls chat');
  expect(cell('key', { action: 'ls' }).source).toBe('%gpu key');
});
