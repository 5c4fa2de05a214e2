import { ISignal, Signal } from '@lumino/signaling';
import { HostDraft, NO_HOST } from './adding';
import { Draft, EMPTY } from './deployment';
import type { KeysShown } from './keys';
import { NO_POD, PodDraft } from './opening';
import type { Sort } from './order';
import type { ScaleDraft } from './scaling';

/** What the person has set the panel to; the names are of endpoints and pods, which share one space, and `host:lab1`. */
export class View {
  search = '';
  sort: Sort = 'cost';
  /** The row that is open. */
  open: string | null = null;
  /** The row to bring into view, until it has been. */
  reveal: string | null = null;
  selected: ReadonlySet<string> = new Set();
  /** The deploy form, null while it is closed. */
  draft: Draft | null = null;
  /** The scale form of the open row, null while it is closed. */
  scaling: ScaleDraft | null = null;
  /** The keys of the open row, null while they are closed: a secret goes with them. */
  keys: KeysShown | null = null;
  /** The form that opens a pod, null while it is closed. */
  pod: PodDraft | null = null;
  /** The form that adds a host, null while it is closed. */
  host: HostDraft | null = null;
  /** The pod whose events are shown in its open row. */
  events: string | null = null;
  /** What is asked why about in the open row: its name, or a worker's id. */
  why: string | null = null;
  /** Its answer has not been seen yet: it is brought into view once, not each time its row is drawn again. */
  unseen = false;

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  set(what: Partial<Pick<View, 'search' | 'sort' | 'open' | 'reveal' | 'draft' | 'scaling' | 'keys' | 'pod' | 'host' | 'events' | 'why'>>): void {
    Object.assign(this, what);
    this._changed.emit();
  }

  toggle(name: string): void {
    this.set({ open: this.open === name ? null : name, scaling: null, keys: null, events: null, why: null });
  }

  /** Open a row, whatever the search was, and bring it into view. */
  show(name: string): void {
    const other = this.open === name ? {} : { scaling: null, keys: null, events: null, why: null };
    this.set({ search: '', open: name, reveal: name, ...other });
  }

  edit(change: Partial<Draft>): void {
    this.set({ draft: { ...(this.draft ?? EMPTY), ...change } });
  }

  /** Of the form that opens a pod. */
  repod(change: Partial<PodDraft>): void {
    this.set({ pod: { ...(this.pod ?? NO_POD), ...change } });
  }

  /** Of the form that adds a host. */
  rehost(change: Partial<HostDraft>): void {
    this.set({ host: { ...(this.host ?? NO_HOST), ...change } });
  }

  /** Of the scale form, if that is still open. */
  rescale(change: Partial<ScaleDraft>): void {
    if (this.scaling) {
      this.set({ scaling: { ...this.scaling, ...change } });
    }
  }

  /** Of the keys of an endpoint, if those are still open: an answer may come late. */
  rekey(name: string, change: Partial<KeysShown>): void {
    if (this.keys?.name === name) {
      this.set({ keys: { ...this.keys, ...change } });
    }
  }

  /** Ask why, or no more if it is asked already. */
  wonder(subject: string): void {
    this.unseen = this.why !== subject;
    this.set({ why: this.unseen ? subject : null });
  }

  select(names: Iterable<string>): void {
    this.selected = new Set(names);
    this._changed.emit();
  }

  pick(name: string, picked: boolean): void {
    const names = new Set(this.selected);
    if (picked) {
      names.add(name);
    } else {
      names.delete(name);
    }
    this.select(names);
  }

  /** Let go of what no longer exists. */
  keep(names: readonly string[]): void {
    const there = new Set(names);
    const left = [...this.selected].filter(name => there.has(name));
    const open = this.open !== null && there.has(this.open) ? this.open : null;
    // What was just made may not be in the summary yet.
    if (left.length !== this.selected.size || (open !== this.open && this.reveal === null)) {
      this.selected = new Set(left);
      this.open = this.reveal === null ? open : this.open;
      this.keys = this.keys?.name === this.open ? this.keys : null;
      this._changed.emit();
    }
  }

  private readonly _changed = new Signal<this, void>(this);
}
