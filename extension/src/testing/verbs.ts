/** The table of verbs with `scale` and `warm` as they are typed. */
interface Verb {
  name: string;
}

function argument(name: string, flags: string[], kind: string, fallback: unknown = null) {
  return { name, flags, kind, required: flags.length === 0, default: fallback };
}

const NAME = argument('name', [], 'text');
const BOTH = { faces: ['magic', 'cli', 'sdk'], cell: 'never' };
const SCALING = [
  {
    name: 'scale',
    ...BOTH,
    arguments: [
      NAME,
      argument('workers', ['--workers'], 'int'),
      argument('always_on', ['--always-on'], 'int'),
      argument('idle', ['--idle'], 'duration')
    ]
  },
  {
    name: 'warm',
    ...BOTH,
    arguments: [
      NAME,
      argument('for_', ['--for'], 'duration', 1800),
      argument('workers', ['--workers'], 'int', 1),
      argument('off', ['--off'], 'flag', false)
    ]
  }
];

export function withScaling(table: readonly Verb[]): Verb[] {
  return [...table.filter(verb => SCALING.every(one => one.name !== verb.name)), ...SCALING];
}

const PODS = [
  {
    name: 'open',
    ...BOTH,
    arguments: [
      NAME,
      argument('on', ['--on'], 'text'),
      argument('gpu', ['--gpu'], 'words'),
      argument('cpu', ['--cpu'], 'int'),
      argument('until', ['--until'], 'duration'),
      argument('idle_stop', ['--idle-stop'], 'text'),
      argument('volume', ['--volume'], 'text'),
      argument('requirements', ['--requirements'], 'text')
    ]
  },
  { name: 'kernel', ...BOTH, arguments: [NAME] },
  { name: 'extend', ...BOTH, arguments: [NAME, argument('for_', ['--for'], 'duration', 1800)] }
];

/** The same with those about pods. */
export function withPods(table: readonly Verb[]): Verb[] {
  return [...table.filter(verb => PODS.every(one => one.name !== verb.name)), ...PODS];
}
