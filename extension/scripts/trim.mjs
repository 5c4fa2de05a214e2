// The built table of verbs keeps what a cell is written from: its help is for notebooks, and half of the size.
import { readFileSync, writeFileSync } from 'node:fs';

const path = new URL('../lib/verbs/verbs.json', import.meta.url);
const trimmed = JSON.parse(readFileSync(path, 'utf8')).map(verb => ({
  name: verb.name,
  faces: verb.faces,
  cell: verb.cell,
  arguments: verb.arguments.map(argument => ({
    name: argument.name,
    flags: argument.flags,
    kind: argument.kind,
    required: argument.required,
    default: argument.default
  }))
}));
writeFileSync(path, JSON.stringify(trimmed));
