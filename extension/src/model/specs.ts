import type { PodRow, Summary } from '../api/schema';
import type { State } from './state';

/** Jupyter's list of kernels. */
export interface Kernelspecs {
  readonly specs: { readonly kernelspecs: { readonly [name: string]: unknown } } | null;
  refreshSpecs(): Promise<void>;
}

/** Times that a list which does not agree yet is read again, and the pause between, in ms. */
const TRIES = 5;
const PAUSE_MS = 1000;
const CHANGED = /^pod\.(ready|stopped|failed|deleted)$/;
/** States in which its kernel is neither sure to be listed nor sure not to be. */
const BETWEEN = ['stopping', 'unreachable'];

/** Keeps Jupyter's list of kernels in step with the pods: read again only while the two disagree. */
export class Specs {
  constructor(
    private readonly _state: Pick<State, 'summary' | 'changed' | 'news'>,
    private readonly _kernels: Kernelspecs
  ) {
    _state.changed.connect(() => this._look());
    _state.news.connect((_, { events }) => {
      if (events.some(event => CHANGED.test(event.kind))) {
        this._tries = 0;
        this._look();
      }
    });
  }

  /** The kernel of a pod, also of one that has ended meanwhile. */
  of(pod: string): string | undefined {
    return this._seen.get(pod);
  }

  has(kernelspec: string): boolean {
    return this._kernels.specs?.kernelspecs[kernelspec] !== undefined;
  }

  refresh(): Promise<void> {
    return this._kernels.refreshSpecs();
  }

  private _look(): void {
    const { summary } = this._state;
    if (!summary) {
      return;
    }
    for (const row of summary.pods) {
      if (row.kernelspec !== null) {
        this._seen.set(row.name, row.kernelspec);
      }
    }
    const wanted = JSON.stringify(summary.pods.map(row => row.kernelspec));
    if (wanted !== this._wanted) {
      this._wanted = wanted;
      this._tries = 0;
    }
    if (!this._agree(summary) && !this._reading && this._tries < TRIES) {
      void this._read();
    }
  }

  private _agree(summary: Summary): boolean {
    const rows = new Map<string, PodRow>(summary.pods.map(row => [row.name, row]));
    return [...this._seen].every(([pod, kernelspec]) => {
      const row = rows.get(pod);
      return BETWEEN.includes(row?.state ?? '') || this.has(kernelspec) === ((row?.kernelspec ?? null) !== null);
    });
  }

  private async _read(): Promise<void> {
    this._reading = true;
    this._tries++;
    try {
      await this.refresh();
    } catch (thrown) {
      console.warn('nbgpu: the kernels could not be read.', thrown);
    }
    const { summary } = this._state;
    if (summary && !this._agree(summary)) {
      await new Promise(resolve => setTimeout(resolve, PAUSE_MS));
    }
    this._reading = false;
    this._look();
  }

  /** pods and their kernels, as they were seen last */
  private readonly _seen = new Map<string, string>();
  private _wanted = '';
  private _tries = 0;
  private _reading = false;
}
