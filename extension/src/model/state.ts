import { ISignal, Signal } from '@lumino/signaling';
import { Failure, failure } from '../api/problem';
import type { Changes, EndpointRow, Event, Host, PodRow, Summary } from '../api/schema';

/** What the event bus says: something changed, and up to which number. */
export interface Wake {
  seq: number;
  kinds: readonly string[];
  backend: 'up' | 'down';
}

/** `unknown`: not asked yet; nothing has been started for this page. */
export type Connection = 'unknown' | 'reading' | 'up' | 'down';

export interface Source {
  changes(since: number | null): Promise<Changes>;
  /** A snapshot if a backend runs; none is started for it. */
  peek(): Promise<Changes | null>;
}

/** As many events as are kept; older ones are let go. */
export const KEPT = 2000;
/** The shortest time between two requests while someone looks, and while nobody does. In ms. */
const ATTENTIVE_MS = 200;
const DISTANT_MS = 2000;

/** Events that came after the first look, oldest first: only these are worth a notification. */
export interface News {
  events: readonly Event[];
}

/**
 * How things stand, and what happened.
 *
 * Nothing here asks again by itself: a request goes out when the page opens, when the bus says that
 * something changed, when the panel is opened, or after an action. Requests never overlap; changes during one lead to one more.
 */
export class State {
  summary: Summary | null = null;
  /** Newest first. */
  events: readonly Event[] = [];
  connection: Connection = 'unknown';
  problem: Failure | null = null;
  /** When `summary` was true, in ms: amounts go on from there. */
  summaryAt = 0;

  constructor(
    private readonly _source: Source,
    private readonly _now: () => number = () => performance.now()
  ) {}

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** Events that came while we looked on. */
  get news(): ISignal<this, News> {
    return this._news;
  }

  get seq(): number | null {
    return this._seq;
  }

  get attentive(): boolean {
    return this._attentive;
  }

  endpoint(name: string): EndpointRow | undefined {
    return this.summary?.endpoints.find(row => row.name === name);
  }

  pod(name: string): PodRow | undefined {
    return this.summary?.pods.find(row => row.name === name);
  }

  host(name: string): Host | undefined {
    return this.summary?.hosts.find(row => row.name === name);
  }

  /** The names that are taken: pods and endpoints share one space. */
  names(): string[] {
    return [...(this.summary?.endpoints ?? []), ...(this.summary?.pods ?? [])].map(row => row.name);
  }

  /** Whether the panel can be seen. The first look reads everything. */
  attend(looking: boolean): void {
    const before = this._attentive;
    this._attentive = looking;
    if (looking && this.connection === 'unknown') {
      void this.refresh();
    } else if (looking && !before) {
      this._hasten();
      this._changed.emit();
    }
  }

  /** How things stand when the page opens, for what shows it without the panel. Never rejects. */
  async peek(): Promise<void> {
    try {
      const found = await this._source.peek();
      if (found && this.connection === 'unknown') {
        this._take(found, null);
      }
    } catch (thrown) {
      // The panel says it, once it is opened.
      console.warn('nbgpu: how things stand could not be read.', thrown);
    }
  }

  /** The bus spoke. */
  wake(message: Wake): void {
    if (message.backend === 'down') {
      if (this.connection !== 'down') {
        this.connection = 'down';
        this.problem = null;
        this._changed.emit();
      }
      return;
    }
    const known =
      this.connection === 'up' &&
      this._seq !== null &&
      message.seq <= this._seq &&
      message.kinds.length > 0 &&
      // `worker.ready` is a stored event, of which we have the number; `requests` is a beat without one
      message.kinds.every(kind => kind.includes('.'));
    if (!known) {
      this._ask();
    }
  }

  /** Read what changed now. Resolves when it is here; never rejects (`problem` says what is wrong). */
  async refresh(): Promise<void> {
    this._cancelTimer();
    if (this._reading) {
      this._again = true;
      return this._reading;
    }
    this._reading = this._readAll();
    try {
      await this._reading;
    } finally {
      this._reading = null;
    }
    if (this._again) {
      this._again = false;
      this._ask();
    }
  }

  private _ask(): void {
    if (this._reading) {
      this._again = true;
    } else if (this._timer === null) {
      const wait = this._readAt + this._pause - this._now();
      if (wait <= 0) {
        void this.refresh();
      } else {
        this._timer = setTimeout(() => void this.refresh(), wait);
      }
    }
  }

  private get _pause(): number {
    return this._attentive ? ATTENTIVE_MS : DISTANT_MS;
  }

  private _hasten(): void {
    if (this._timer !== null) {
      this._cancelTimer();
      this._ask();
    }
  }

  private _cancelTimer(): void {
    if (this._timer !== null) {
      clearTimeout(this._timer);
      this._timer = null;
    }
  }

  private async _readAll(): Promise<void> {
    if (this.connection === 'unknown') {
      this.connection = 'reading';
      this._changed.emit();
    }
    this._again = false;
    this._readAt = this._now();
    try {
      this._take(await this._source.changes(this._seq), this._seq);
    } catch (thrown) {
      this.connection = 'down';
      this.problem = failure(thrown);
      this._again = false;
      this._changed.emit();
    }
  }

  private _take(found: Changes, since: number | null): void {
    if (since !== null && found.seq < since) {
      // It counts from less than we have seen: another store. Begin anew.
      this._seq = null;
      this._again = true;
      this._readAt = -Infinity;
      return;
    }
    // With a gap it holds the newest events only, and so is a snapshot.
    const snapshot = since === null || found.gap;
    const fresh = [...found.events].reverse();
    this._seq = found.seq;
    if (snapshot) {
      this.events = fresh;
    } else if (fresh.length > 0) {
      this.events = [...fresh, ...this.events].slice(0, KEPT);
    }
    this.summary = found.summary;
    this.summaryAt = Date.now();
    this.connection = 'up';
    this.problem = null;
    this._changed.emit();
    if (since !== null && fresh.length > 0) {
      this._news.emit({ events: found.events });
    }
  }

  private _seq: number | null = null;
  private _attentive = false;
  private _reading: Promise<void> | null = null;
  private _again = false;
  private _readAt = -Infinity;
  private _timer: ReturnType<typeof setTimeout> | null = null;
  private readonly _changed = new Signal<this, void>(this);
  private readonly _news = new Signal<this, News>(this);
}
