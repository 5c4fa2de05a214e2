import { ISignal, Signal } from '@lumino/signaling';
import type { Done, Piece, Progress } from '../api/answer';
import type { Question } from '../api/client';
import { Failure, failure } from '../api/problem';

export type Ask = (name: string, question: Question, signal: AbortSignal) => AsyncIterable<Piece>;

export type TrialState = 'new' | 'asking' | 'done' | 'failed' | 'cancelled';

/** The longest answer of a trial, in tokens. */
export const LONGEST = 256;
/** Words come faster than they can be drawn: they are shown together. In ms. */
const TOGETHER_MS = 50;

/** One try-it box: its text, what it waits for, and the answer so far. It outlives its row's drawing. */
export class Trial {
  text = '';
  raw = false;
  state: TrialState = 'new';
  progress: Progress | null = null;
  answer = '';
  done: Done | null = null;
  problem: Failure | null = null;

  constructor(
    readonly name: string,
    private readonly _ask: Ask
  ) {}

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  edit(change: Partial<Pick<Trial, 'text' | 'raw'>>): void {
    Object.assign(this, change);
    this._changed.emit();
  }

  /** Ask what is in the box. Resolves when the answer is whole, failed or cancelled. */
  async ask(): Promise<void> {
    if (this.state === 'asking' || !this.text.trim()) {
      return;
    }
    const stop = new AbortController();
    this._stop = stop;
    Object.assign(this, { state: 'asking', progress: null, answer: '', done: null, problem: null });
    this._changed.emit();
    try {
      const question = { text: this.text, raw: this.raw, maxTokens: LONGEST };
      for await (const piece of this._ask(this.name, question, stop.signal)) {
        this._take(piece);
      }
      this.state = 'done';
    } catch (thrown) {
      this.state = stop.signal.aborted ? 'cancelled' : 'failed';
      this.problem = stop.signal.aborted ? null : failure(thrown);
    } finally {
      this._stop = null;
      this.progress = null;
      this._flush();
    }
  }

  cancel(): void {
    this._stop?.abort();
  }

  private _take(piece: Piece): void {
    if (piece.kind === 'waiting') {
      this.progress = piece.progress;
      this._changed.emit();
    } else if (piece.kind === 'done') {
      this.done = piece.done;
    } else {
      this.answer += piece.text;
      this._timer ??= setTimeout(() => this._flush(), TOGETHER_MS);
    }
  }

  private _flush(): void {
    if (this._timer !== null) {
      clearTimeout(this._timer);
      this._timer = null;
    }
    this._changed.emit();
  }

  private _stop: AbortController | null = null;
  private _timer: ReturnType<typeof setTimeout> | null = null;
  private readonly _changed = new Signal<this, void>(this);
}

/** The trials of a page, one an endpoint. */
export class Trials {
  constructor(private readonly _ask: Ask) {}

  of(name: string): Trial {
    let found = this._trials.get(name);
    if (!found) {
      found = new Trial(name, this._ask);
      this._trials.set(name, found);
    }
    return found;
  }

  private readonly _trials = new Map<string, Trial>();
}
