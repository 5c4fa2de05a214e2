import { duration } from '../model/format';
import table from './verbs.json';

/** The arguments of a verb, by their names in verbs.json or by their flags (`--for`). */
export type Values = Readonly<Record<string, string | number | boolean | readonly string[] | null>>;

/** A cell that does what a button does. */
export interface Cell {
  source: string;
  /** It begins with `%%gpu`, so that nothing can stand above. */
  whole: boolean;
}

interface Argument {
  name: string;
  flags: string[];
  kind: string;
  required: boolean;
  default: unknown;
}

interface Verb {
  name: string;
  faces: string[];
  cell: string;
  arguments: Argument[];
}

const verbs = new Map((table as Verb[]).map(verb => [verb.name, verb]));

/** As a shell reads one word; a brace or $name that IPython would fill in is written twice. */
export function word(text: string): string {
  const quoted = /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replace(/'/g, `'"'"'`)}'`;
  return quoted.replace(/[{}]/g, '$&$&').replace(/\$(?=[\w.])/g, '$$$$');
}

function spelled(argument: Argument, value: Values[string]): string {
  if (argument.kind === 'duration' && typeof value === 'number') {
    return duration(value);
  }
  return Array.isArray(value) ? value.join(',') : String(value);
}

function words(argument: Argument, value: Values[string]): string[] {
  const flag = argument.flags.find(one => one.startsWith('--'));
  if (argument.kind === 'flag') {
    return value === true && flag !== undefined ? [flag] : [];
  }
  const text = word(spelled(argument, value));
  return flag === undefined ? [text] : [flag, text];
}

/** Whether a notebook has this verb. */
export function known(name: string): boolean {
  return verbs.get(name)?.faces.includes('magic') ?? false;
}

/**
 * The cell of a verb. What is left out, null or as by default is not written.
 *
 * Throws an Error for a verb that the magics do not have, an argument that it does not take, and a
 * required one that is missing: mistakes of ours, not of the person.
 */
export function cell(name: string, values: Values = {}): Cell {
  const verb = verbs.get(name);
  if (!verb || !known(name)) {
    throw new Error(`There is no verb ${name} in a notebook.`);
  }
  const taken = new Set(verb.arguments.flatMap(argument => [argument.name, ...argument.flags]));
  const unknown = Object.keys(values).find(key => !taken.has(key));
  if (unknown !== undefined) {
    throw new Error(`${name} has no argument ${unknown}.`);
  }
  const positional: string[] = [];
  /** positional ones as by default: written only if another stands behind them */
  let before: string[] = [];
  const options: string[] = [];
  let body: string | null = null;
  for (const argument of verb.arguments) {
    const key = [argument.name, ...argument.flags].find(one => one in values);
    const value = key === undefined ? null : (values[key] ?? null);
    if (value === null || value === argument.default) {
      if (argument.required) {
        throw new Error(`${name} needs ${argument.name}.`);
      }
      if (value !== null && argument.flags.length === 0) {
        before.push(...words(argument, value));
      }
    } else if (argument.kind === 'cell') {
      body = spelled(argument, value);
    } else if (argument.flags.length > 0) {
      options.push(...words(argument, value));
    } else {
      positional.push(...before, ...words(argument, value));
      before = [];
    }
  }
  const whole = body !== null;
  const line = [`${whole ? '%%' : '%'}gpu`, name, ...positional, ...options].join(' ');
  return { source: body === null ? line : `${line}\n${body}`, whole };
}

/** Several one-line verbs in one cell. */
export function lines(name: string, each: readonly Values[]): Cell {
  return { source: each.map(values => cell(name, values).source).join('\n'), whole: false };
}

/** A call of the model from Python. */
export function example(name: string): Cell {
  const source = [
    'import nbgpu',
    '',
    `${variable(name)} = nbgpu.connect().endpoint(${JSON.stringify(name)})`,
    `${variable(name)}.ask("Say hello.")`
  ].join('\n');
  return { source, whole: false };
}

function variable(name: string): string {
  const plain = name.replace(/[^a-z0-9]+/g, '_');
  return /^[a-z]/.test(plain) && !KEYWORDS.has(plain) ? plain : `endpoint_${plain}`;
}

/** Python's keywords that could be an endpoint's name. */
const KEYWORDS = new Set(
  ('and as assert async await break class continue def del elif else except finally for from global if import ' +
    'in is lambda nonlocal not or pass raise return try while with yield nbgpu').split(' ')
);
