import { ISignal, Signal } from '@lumino/signaling';
import type { Client, Deploy, Limits, NewHost, OpenPod } from '../api/client';
import { Failure, failure } from '../api/problem';
import type { Finding } from '../api/schema';
import { hostRow } from './hosts';
import type { State } from './state';

export type Doing =
  | 'stopping' | 'starting' | 'deleting' | 'warming' | 'cooling' | 'extending'
  | 'checking' | 'reconnecting' | 'removing' | 'taking into use';

/** Stops that run at one time: each may wait for a worker to end. */
const AT_ONCE = 4;

/** What can be done to endpoints, pods and hosts, what is being done, and what failed, by the name of the row. */
export class Actions {
  readonly doing = new Map<string, Doing>();
  readonly failed = new Map<string, Failure>();
  /** What the last check of a host found, by its name. */
  readonly found = new Map<string, readonly Finding[]>();

  constructor(
    private readonly _client: Pick<
      Client,
      'act' | 'create' | 'remove' | 'scale' | 'warm' | 'openPod' | 'actPod' | 'removePod' | 'extend'
      | 'addHost' | 'actHost' | 'removeHost' | 'use'
    >,
    private readonly _state: Pick<State, 'refresh'>
  ) {}

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** Throws a Failure. */
  async deploy(request: Deploy): Promise<void> {
    await this._then(this._client.create(request));
  }

  /** Throws a Failure. */
  async scale(name: string, workers: Partial<Limits>): Promise<void> {
    await this._then(this._client.scale(name, workers));
  }

  /** Keep workers up for a while, asked or not; 0 seconds end that. */
  warm(name: string, seconds: number, workers = 1): Promise<void> {
    return this._do(name, seconds > 0 ? 'warming' : 'cooling', () => this._client.warm(name, seconds, workers));
  }

  start(name: string): Promise<void> {
    return this._do(name, 'starting', () => this._client.act(name, 'start'));
  }

  stop(name: string): Promise<void> {
    return this._do(name, 'stopping', () => this._client.act(name, 'stop'));
  }

  async stopAll(names: readonly string[]): Promise<void> {
    const left = [...names];
    const hand = async (): Promise<void> => {
      for (let name = left.shift(); name !== undefined; name = left.shift()) {
        await this.stop(name);
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, hand));
  }

  remove(name: string): Promise<void> {
    return this._do(name, 'deleting', () => this._client.remove(name));
  }

  /** Throws a Failure. */
  async open(request: OpenPod): Promise<void> {
    await this._then(this._client.openPod(request));
  }

  startPod(name: string): Promise<void> {
    return this._do(name, 'starting', () => this._client.actPod(name, 'start'));
  }

  stopPod(name: string): Promise<void> {
    return this._do(name, 'stopping', () => this._client.actPod(name, 'stop'));
  }

  removePod(name: string, keepVolume: boolean): Promise<void> {
    return this._do(name, 'deleting', () => this._client.removePod(name, keepVolume));
  }

  /** It ends by itself no sooner than so many seconds from now. */
  extend(name: string, seconds: number): Promise<void> {
    return this._do(name, 'extending', () => this._client.extend(name, seconds));
  }

  /** Throws a Failure. */
  async addHost(host: NewHost): Promise<void> {
    await this._then(this._client.addHost(host));
  }

  checkHost(name: string): Promise<void> {
    this.found.delete(name);
    return this._do(hostRow(name), 'checking', async () => {
      this.found.set(name, (await this._client.actHost(name, 'check')).findings);
    });
  }

  reconnectHost(name: string): Promise<void> {
    return this._do(hostRow(name), 'reconnecting', () => this._client.actHost(name, 'reconnect'));
  }

  removeHost(name: string): Promise<void> {
    return this._do(hostRow(name), 'removing', async () => {
      await this._client.removeHost(name);
      this.found.delete(name);
    });
  }

  /** Pods and endpoints that name no place go there from now on. */
  use(place: string): Promise<void> {
    return this._do(hostRow(place), 'taking into use', () => this._client.use(place));
  }

  /** The person has read what failed. */
  forget(name: string): void {
    if (this.failed.delete(name)) {
      this._changed.emit();
    }
  }

  /** The same of what a check of a host found. */
  forgetFound(name: string): void {
    if (this.found.delete(name)) {
      this._changed.emit();
    }
  }

  private async _then(done: Promise<unknown>): Promise<void> {
    try {
      await done;
    } catch (thrown) {
      throw failure(thrown);
    }
    await this._state.refresh();
  }

  private async _do(name: string, doing: Doing, act: () => Promise<unknown>): Promise<void> {
    if (this.doing.has(name)) {
      return;
    }
    this.failed.delete(name);
    this.doing.set(name, doing);
    this._changed.emit();
    try {
      await act();
    } catch (thrown) {
      this.failed.set(name, failure(thrown));
    } finally {
      this.doing.delete(name);
      this._changed.emit();
    }
    await this._state.refresh();
  }

  private readonly _changed = new Signal<this, void>(this);
}
