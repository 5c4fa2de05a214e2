import { expect, test } from 'vitest';
import { cell, example } from './cell';
import { sources } from './loading';

test('a line runs as it is: it loads the extension first', () => {
  expect(sources(cell('stop', { name: 'a' }), ['x = 1'])).toEqual(['%load_ext nbgpu\n%gpu stop a']);
});

test('what is loaded above is not loaded again', () => {
  expect(sources(cell('stop', { name: 'a' }), ['import os\n%load_ext nbgpu'])).toEqual(['%gpu stop a']);
  expect(sources(cell('stop', { name: 'a' }), ['# %load_ext nbgpu'])).toHaveLength(1);
  expect(sources(cell('stop', { name: 'a' }), ['# %load_ext nbgpu'])[0]).toContain('%load_ext');
});

test('a whole cell has its loading in a cell above', () => {
  expect(sources(cell('ask', { name: 'a', text: 'b' }), [])).toEqual(['%load_ext nbgpu', '%%gpu ask a\nb']);
});

test('Python needs no magics', () => {
  expect(sources(example('a'), [])).toEqual([example('a').source]);
});
