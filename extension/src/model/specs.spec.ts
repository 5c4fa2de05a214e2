import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { Changes, PodRow } from '../api/schema';
import { changes, event, pod, stopped, summary } from '../testing/samples';
import { Specs } from './specs';
import { State } from './state';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

/** `files` is what lies in the folder; `listed`, what Lab has read of it. */
function fake() {
  let seq = 0;
  let answer: Changes = changes(0);
  const state = new State({ changes: () => Promise.resolve(answer), peek: () => Promise.resolve(null) });
  const files = new Set<string>();
  const kernels = {
    specs: { kernelspecs: {} as Record<string, object> },
    refreshSpecs: vi.fn(() => {
      kernels.specs = { kernelspecs: Object.fromEntries([...files].map(name => [name, {}])) };
      return Promise.resolve();
    })
  };
  const specs = new Specs(state, kernels);
  const tell = async (pods: PodRow[], kind = 'pod.changed') => {
    seq++;
    answer = changes(seq, [event(seq, { kind, endpoint: pods[0]?.name ?? 'train' })], { summary: summary([], { pods }) });
    await state.refresh();
    await vi.advanceTimersByTimeAsync(0);
  };
  return { specs, files, kernels, tell };
}

test('a pod that is ready is in the picker, and gone from it when it ends', async () => {
  const { specs, files, kernels, tell } = fake();
  await tell([pod('train', { state: 'starting', kernelspec: null })]);
  expect(kernels.refreshSpecs).not.toHaveBeenCalled();
  files.add('nbgpu-train');
  await tell([pod('train')], 'pod.ready');
  expect(specs.has('nbgpu-train')).toBe(true);
  expect(kernels.refreshSpecs).toHaveBeenCalledTimes(1);
  files.delete('nbgpu-train');
  await tell([stopped('train')], 'pod.stopped');
  expect(specs.has('nbgpu-train')).toBe(false);
  expect(specs.of('train')).toBe('nbgpu-train');
  await tell([], 'pod.deleted');
  expect(kernels.refreshSpecs).toHaveBeenCalledTimes(2);
});

test('a list that agrees is not read again', async () => {
  const { files, kernels, tell } = fake();
  files.add('nbgpu-train');
  await tell([pod('train')], 'pod.ready');
  await tell([pod('train', { state: 'busy' })]);
  await tell([pod('train', { costSoFar: '1' })]);
  expect(kernels.refreshSpecs).toHaveBeenCalledTimes(1);
});

test('a file that comes late is waited for, but not for ever', async () => {
  const { specs, files, kernels, tell } = fake();
  await tell([pod('train')], 'pod.ready');
  expect(specs.has('nbgpu-train')).toBe(false);
  files.add('nbgpu-train');
  await vi.advanceTimersByTimeAsync(1000);
  expect(specs.has('nbgpu-train')).toBe(true);
  await tell([pod('train'), pod('hidden')], 'pod.ready'); // Jupyter may be told to list it not
  await vi.advanceTimersByTimeAsync(60_000);
  expect(kernels.refreshSpecs.mock.calls.length).toBeLessThan(9);
});
