// Copy the verbs that the magics parse from: the cells that the panel writes are made of the same table.
import { copyFileSync } from 'node:fs';

const here = import.meta.dirname;
copyFileSync(`${here}/../../magics/nbgpu/verbs.json`, `${here}/../src/verbs/verbs.json`);
