import type { Cell } from './cell';

const LOAD = '%load_ext nbgpu';
const LOADS = /^\s*%(re)?load_ext\s+nbgpu\b/m;

/** What is to be written: a `%%gpu` cell must begin with that, so that loading needs a cell of its own. */
export function sources(cell: Cell, before: readonly string[]): string[] {
  if (!/^%%?gpu\b/.test(cell.source) || before.some(source => LOADS.test(source))) {
    return [cell.source];
  }
  return cell.whole ? [LOAD, cell.source] : [`${LOAD}\n${cell.source}`];
}
