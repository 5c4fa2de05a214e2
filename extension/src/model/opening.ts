import type { OpenPod } from '../api/client';
import { Cell, cell, known, Values } from '../verbs/cell';
import { duration, seconds } from './format';

const NAME = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
const VOLUME = /^[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}$/;
const GPU = /^([^:,\s]+)(?::([1-9]\d*))?$/;
/** What the backend takes. */
const MOST_PROCESSORS = 1024;
const LEAST_S = 10;
const MOST_S = 604_800;
/** As by default, in seconds. */
const IDLE_S = 1800;

/** The form that opens a pod, as it is typed; `name` is null until it is: one is suggested then. */
export interface PodDraft {
  name: string | null;
  /** null until it is chosen: the place that is in use */
  on: string | null;
  hardware: 'cpu' | 'gpu';
  processors: string;
  /** `H100, A100` or `any:2` */
  gpus: string;
  /** `30m` or `never` */
  idle: string;
  /** `8h`; empty: no end */
  until: string;
  /** the path of a file; empty: none */
  requirements: string;
  /** the name of a network volume; empty: one of its own */
  volume: string;
}

export const NO_POD: PodDraft = {
  name: null, on: null, hardware: 'cpu', processors: '1', gpus: 'any', idle: '30m', until: '', requirements: '', volume: ''
};

export type PodField = keyof PodDraft;

/** `pod`, or with a number behind it. */
export function suggested(taken: readonly string[]): string {
  for (let number = 1; ; number++) {
    const name = number === 1 ? 'pod' : `pod-${number}`;
    if (!taken.includes(name)) {
      return name;
    }
  }
}

export function podName(draft: PodDraft, taken: readonly string[]): string {
  return draft.name?.trim() ?? suggested(taken);
}

/** `H100:2, A100:2` is two of either; null if it cannot be read. */
export function gpusOf(text: string): { ids: string[]; count: number } | null {
  const found = text.split(',').map(one => GPU.exec(one.trim()));
  const counts = new Set(found.map(match => Number(match?.[2] ?? 1)));
  const ids = found.map(match => match?.[1] ?? '');
  return counts.size !== 1 || ids.includes('') ? null : { ids, count: [...counts][0] ?? 1 };
}

function wrongTime(text: string): string | null {
  const found = seconds(text);
  if (found === null) {
    return `“${text.trim()}” is no length of time. Write it as in: 30m, 8h, 1d`;
  }
  return found < LEAST_S || found > MOST_S ? 'It goes from 10s to 7d.' : null;
}

/** What is wrong with each field, as a sentence; empty if it can be sent. */
export function wrongs(draft: PodDraft, taken: readonly string[]): Partial<Record<PodField, string>> {
  const name = podName(draft, taken);
  const wrong: Partial<Record<PodField, string>> = {};
  if (!NAME.test(name)) {
    wrong.name = 'A name is made of a-z, 0-9 and - inside, at most 63 characters.';
  } else if (taken.includes(name)) {
    wrong.name = `${name} exists already: take another name.`;
  }
  const processors = Number(draft.processors);
  if (draft.hardware === 'cpu' && !(Number.isInteger(processors) && processors >= 1 && processors <= MOST_PROCESSORS)) {
    wrong.processors = `A number from 1 to ${MOST_PROCESSORS.toLocaleString('en-US')}.`;
  }
  if (draft.hardware === 'gpu' && gpusOf(draft.gpus) === null) {
    wrong.gpus = 'GPUs that will do, in order, as in: H100, A100 or any:2';
  }
  const idle = draft.idle.trim() === 'never' ? null : wrongTime(draft.idle);
  if (idle !== null) {
    wrong.idle = idle;
  }
  const until = draft.until.trim() ? wrongTime(draft.until) : null;
  if (until !== null) {
    wrong.until = until;
  }
  if (draft.volume.trim() && !VOLUME.test(draft.volume.trim())) {
    wrong.volume = 'A volume’s name begins with a letter or digit and has at most 63 characters.';
  }
  return wrong;
}

/** The lines of a requirements file that say something. */
export function requirementsOf(text: string): string[] {
  return text.split(/\r?\n/).map(line => line.trim()).filter(line => line && !line.startsWith('#'));
}

/**
 * The request for a draft without mistakes. `nowUs` is the backend's time, `requirements` what the file holds,
 * `used` the place of those that name none.
 */
export function openRequest(
  draft: PodDraft, taken: readonly string[], nowUs: number, requirements: readonly string[], used = 'local'
): OpenPod {
  const gpu = draft.hardware === 'gpu' ? gpusOf(draft.gpus) : null;
  const processors = Number(draft.processors);
  const until = draft.until.trim() ? seconds(draft.until) : null;
  const volume = draft.volume.trim();
  return {
    name: podName(draft, taken),
    ...(gpu ? { gpu } : { cpu: { vcpuCount: processors } }),
    nbgpu: {
      place: { on: draft.on ?? used, cpu: gpu ? null : processors, gpu: gpu?.ids ?? [] },
      limits: {
        idleStopS: draft.idle.trim() === 'never' ? null : seconds(draft.idle),
        ...(until === null ? {} : { untilUs: Math.round(nowUs) + until * 1_000_000 })
      },
      ...(requirements.length > 0 ? { requirements: [...requirements] } : {}),
      ...(volume ? { volume } : {})
    }
  };
}

function openValues(draft: PodDraft, taken: readonly string[]): Values {
  const gpus = gpusOf(draft.gpus);
  const idle = draft.idle.trim() === 'never' ? null : seconds(draft.idle);
  const until = draft.until.trim() ? seconds(draft.until) : null;
  return {
    name: podName(draft, taken),
    '--on': draft.on,
    ...(draft.hardware === 'gpu'
      ? { '--gpu': (gpus?.ids ?? []).map(id => ((gpus?.count ?? 1) > 1 ? `${id}:${gpus?.count ?? 1}` : id)) }
      : { '--cpu': Number(draft.processors) }),
    '--idle-stop': idle === IDLE_S ? null : idle === null ? 'never' : duration(idle),
    '--until': until,
    '--requirements': draft.requirements.trim() || null,
    '--volume': draft.volume.trim() || null
  };
}

/** The same as a cell; null where a notebook has no such verb. */
export function openCell(draft: PodDraft, taken: readonly string[]): (() => Cell) | null {
  return known('open') ? () => cell('open', openValues(draft, taken)) : null;
}

/** A verb about a pod as a cell; null where a notebook has none such. */
export function podCell(verb: string, name: string, values: Values = {}): (() => Cell) | null {
  return known(verb) ? () => cell(verb, { name, ...values }) : null;
}
