import { expect, test, vi } from 'vitest';
import { gpusOf, NO_POD, openCell, openRequest, podCell, podName, requirementsOf, suggested, wrongs } from './opening';

vi.mock('../verbs/verbs.json', async original => {
  const { withPods } = await import('../testing/verbs');
  return { default: withPods((await original<{ default: { name: string }[] }>()).default) };
});

test('a name is suggested that is free', () => {
  expect(suggested([])).toBe('pod');
  expect(suggested(['pod', 'pod-2', 'chat'])).toBe('pod-3');
  expect(podName({ ...NO_POD, name: ' train ' }, [])).toBe('train');
});

test('GPUs that will do, in order', () => {
  expect(gpusOf('any')).toEqual({ ids: ['any'], count: 1 });
  expect(gpusOf('H100:2, A100:2')).toEqual({ ids: ['H100', 'A100'], count: 2 });
  for (const text of ['', 'H100:2,A100', 'H100:0', 'H100:x', 'a,,b']) {
    expect(gpusOf(text)).toBeNull();
  }
});

test('as by default nothing is wrong', () => {
  expect(wrongs(NO_POD, ['pod'])).toEqual({});
});

test('each mistake is told at its field', () => {
  const draft = { ...NO_POD, name: 'Train!', processors: '0', idle: 'soon', until: '5', volume: '/x' };
  expect(Object.keys(wrongs(draft, [])).sort()).toEqual(['idle', 'name', 'processors', 'until', 'volume']);
  expect(wrongs({ ...NO_POD, name: 'chat' }, ['chat']).name).toBe('chat exists already: take another name.');
  expect(wrongs({ ...NO_POD, hardware: 'gpu', gpus: '' }, []).gpus).toContain('any:2');
  // what is not asked for cannot be wrong
  expect(wrongs({ ...NO_POD, gpus: '', idle: 'never' }, [])).toEqual({});
});

test('the request is what the magics would send', () => {
  expect(openRequest(NO_POD, [], 0, [])).toEqual({
    name: 'pod',
    cpu: { vcpuCount: 1 },
    nbgpu: { place: { on: 'local', cpu: 1, gpu: [] }, limits: { idleStopS: 1800 } }
  });
  const draft = {
    ...NO_POD, name: 'train', hardware: 'gpu', gpus: 'H100:2', idle: 'never', until: '8h', volume: ' data '
  } as const;
  expect(openRequest(draft, [], 1_000_000.4, ['numpy'])).toEqual({
    name: 'train',
    gpu: { ids: ['H100'], count: 2 },
    nbgpu: {
      place: { on: 'local', cpu: null, gpu: ['H100'] },
      limits: { idleStopS: null, untilUs: 28_801_000_000 },
      requirements: ['numpy'],
      volume: 'data'
    }
  });
});

test('comments and empty lines of a file are no requirements', () => {
  expect(requirementsOf('# all of it\r\nnumpy>=2\n\n  pandas  \n')).toEqual(['numpy>=2', 'pandas']);
});

test('the same as cells', () => {
  expect(openCell(NO_POD, [])?.().source).toBe('%gpu open pod --cpu 1');
  const draft = {
    ...NO_POD, name: 'train', hardware: 'gpu', gpus: 'H100:2,A100:2', idle: 'never', until: '8h', requirements: 'r.txt', volume: 'data'
  } as const;
  expect(openCell(draft, [])?.().source).toBe(
    '%gpu open train --gpu H100:2,A100:2 --until 8h --idle-stop never --volume data --requirements r.txt'
  );
  expect(openCell({ ...NO_POD, idle: '90m' }, [])?.().source).toBe('%gpu open pod --cpu 1 --idle-stop 90m');
  expect(podCell('extend', 'train', { '--for': 7200 })?.().source).toBe('%gpu extend train --for 2h');
  expect(podCell('no-such-verb', 'train')).toBeNull();
});
