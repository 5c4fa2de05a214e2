import { expect, test, vi } from 'vitest';
import { obey } from './switching';

function fake(listed: string[], later: string[] = listed) {
  let there = listed;
  const said: string[] = [];
  const specs = {
    has: (name: string) => there.includes(name),
    refresh: vi.fn(() => {
      said.push('refreshed');
      there = later;
      return Promise.resolve();
    })
  };
  const notebook = {
    answer: vi.fn((answer: object) => void said.push(JSON.stringify(answer))),
    rest: vi.fn(() => {
      said.push('at rest');
      return Promise.resolve();
    }),
    change: vi.fn((name: string) => {
      said.push(`changed to ${name}`);
      return Promise.resolve();
    })
  };
  return { specs, notebook, said };
}

const OK = '{"ok":true}';

test('it is answered before the kernel that asks is left', async () => {
  const { specs, notebook, said } = fake(['nbgpu-train']);
  await obey({ kernelspec: 'nbgpu-train' }, specs, notebook);
  expect(said).toEqual([OK, 'refreshed', 'at rest', 'changed to nbgpu-train']);
});

test('a kernel that is not listed yet is looked for first', async () => {
  const { specs, notebook, said } = fake([], ['nbgpu-train']);
  await obey({ kernelspec: 'nbgpu-train' }, specs, notebook);
  expect(said).toEqual(['refreshed', OK, 'at rest', 'changed to nbgpu-train']);
});

test('a kernel that is nowhere is refused, and nothing changes', async () => {
  const { specs, notebook, said } = fake([]);
  await obey({ kernelspec: 'nbgpu-none' }, specs, notebook);
  expect(said[1]).toContain('JupyterLab has no kernel nbgpu-none.');
  expect(notebook.change).not.toHaveBeenCalled();
});

test('what names no kernel is refused', async () => {
  for (const data of [undefined, null, {}, { kernelspec: 7 }, { kernelspec: '' }]) {
    const { specs, notebook, said } = fake(['x']);
    await obey(data, specs, notebook);
    expect(said).toEqual(['{"ok":false,"error":"It is not said which kernel."}']);
  }
});

test('a kernel that does not come to rest is left all the same', async () => {
  vi.useFakeTimers();
  try {
    const { specs, notebook } = fake(['x']);
    notebook.rest.mockReturnValue(new Promise(() => undefined));
    const done = obey({ kernelspec: 'x' }, specs, notebook);
    await vi.advanceTimersByTimeAsync(4900);
    expect(notebook.change).not.toHaveBeenCalled();
    await vi.advanceTimersByTimeAsync(200);
    await done;
    expect(notebook.change).toHaveBeenCalledWith('x');
  } finally {
    vi.useRealTimers();
  }
});
