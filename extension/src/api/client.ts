import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';
import { Piece, pieces } from './answer';
import { Failure, failure, ofResponse } from './problem';
import type {
  Changes, Contact, Endpoint, Host, Key, KeyList, NewKey, Pod, Settings, Volume, VolumeList, WorkerLimits, Why
} from './schema';

/** What a deploy asks for: the part of a create request that the panel sets. */
export interface Deploy {
  name: string;
  workers: { min: number; max: number; idleTimeout: number };
  nbgpu: { model: string; place: { on: string }; cwd?: string };
}

/** How many workers, and how long one idles, in seconds. */
export type Limits = WorkerLimits;

/** A key that is asked for; a limit that is left out is none. */
export interface Wanted {
  /** its name */
  endpoint: string;
  label: string;
  /** requests and jobs */
  perMinute?: number;
  /** requests and jobs in progress */
  atOnce?: number;
}

/** A pod that is asked for: the part of a create request that the panel sets. */
export interface OpenPod {
  name: string;
  cpu?: { vcpuCount: number };
  gpu?: { ids: string[]; count: number };
  nbgpu: {
    place: { on: string; cpu: number | null; gpu: string[] };
    limits: { idleStopS: number | null; untilUs?: number };
    /** lines of a requirements file */
    requirements?: string[];
    /** the name of a network volume, made if it is not there */
    volume?: string;
  };
}

/** How an own server is reached; both are `[user@]host[:port]`, or a name of ~/.ssh/config. */
export interface Reached {
  target: string;
  keyFile?: string;
  /** a host to go through */
  jump?: string;
}

/** A host that is asked for. */
export interface NewHost extends Reached {
  name: string;
  /** of the keys that were accepted, in order of hops */
  fingerprints: readonly string[];
  /** dollars an hour */
  rate?: string;
}

export interface Question {
  text: string;
  /** continue the text as it stands, for models that know no chat */
  raw: boolean;
  maxTokens: number;
}

/** The backend, by way of Jupyter: it adds the token, so that none is here. */
export class Client {
  constructor(private readonly _settings = ServerConnection.makeSettings()) {}

  /** What happened after `since`, and how things stand; null: a snapshot. */
  async changes(since: number | null): Promise<Changes> {
    const query = since === null ? '' : `?since=${since}`;
    return (await this._json('GET', `nbgpu/v1/changes${query}`)) as Changes;
  }

  /** A snapshot if a backend runs; null, and none is started, if not. */
  async peek(): Promise<Changes | null> {
    const response = await this._send('GET', 'nbgpu/v1/changes', undefined, { headers: { 'X-Nbgpu-Start': 'never' } });
    return response.status === 204 ? null : ((await response.json()) as Changes);
  }

  async create(body: Deploy): Promise<Endpoint> {
    return (await this._json('POST', 'v2/serverless', body)) as Endpoint;
  }

  async act(name: string, action: 'start' | 'stop'): Promise<Endpoint> {
    return (await this._json('POST', `v2/serverless/${encodeURIComponent(name)}/action`, {
      action
    })) as Endpoint;
  }

  /** As it is set, and what it costs. */
  async endpoint(name: string): Promise<Endpoint> {
    return (await this._json('GET', `v2/serverless/${encodeURIComponent(name)}`)) as Endpoint;
  }

  /** What is left out stays as it is. */
  async scale(name: string, workers: Partial<Limits>): Promise<Endpoint> {
    return (await this._json('PATCH', `v2/serverless/${encodeURIComponent(name)}`, { workers })) as Endpoint;
  }

  /** Keep so many workers up; 0 seconds end that. */
  async warm(name: string, seconds: number, workers: number): Promise<Endpoint> {
    return (await this._json('POST', `nbgpu/v1/warm/${encodeURIComponent(name)}`, { seconds, workers })) as Endpoint;
  }

  /** Of an endpoint, a worker (`w-…`) or a request. */
  async why(subject: string): Promise<Why> {
    return (await this._json('GET', `nbgpu/v1/why/${encodeURIComponent(subject)}`)) as Why;
  }

  async remove(name: string): Promise<void> {
    await this._send('DELETE', `v2/serverless/${encodeURIComponent(name)}`);
  }

  async openPod(body: OpenPod): Promise<Pod> {
    return (await this._json('POST', 'v2/pods', body)) as Pod;
  }

  /** In full, with its gauges. */
  async pod(name: string): Promise<Pod> {
    return (await this._json('GET', `v2/pods/${encodeURIComponent(name)}`)) as Pod;
  }

  async actPod(name: string, action: 'start' | 'stop'): Promise<Pod> {
    return (await this._json('POST', `v2/pods/${encodeURIComponent(name)}/action`, { action })) as Pod;
  }

  /** Its home goes, and its own volume unless that is kept. */
  async removePod(name: string, keepVolume: boolean): Promise<void> {
    await this._send('DELETE', `v2/pods/${encodeURIComponent(name)}${keepVolume ? '?keepVolume=true' : ''}`);
  }

  /** It ends by itself no sooner than so many seconds from now. */
  async extend(name: string, seconds: number): Promise<Pod> {
    return (await this._json('POST', `nbgpu/v1/pods/${encodeURIComponent(name)}/extend`, { seconds })) as Pod;
  }

  async volumes(): Promise<Volume[]> {
    return ((await this._json('GET', 'v2/network-volumes')) as VolumeList).networkVolumes;
  }

  async settings(): Promise<Settings> {
    return (await this._json('GET', 'nbgpu/v1/settings')) as Settings;
  }

  /** The keys that it and those before it show, up to the first that is not among the accepted ones. */
  async meet(reached: Reached, fingerprints: readonly string[]): Promise<Contact> {
    return (await this._json('POST', 'nbgpu/v1/hosts/contact', { ...reached, fingerprints })) as Contact;
  }

  /** It is logged in to before this returns. */
  async addHost(host: NewHost): Promise<Host> {
    return (await this._json('POST', 'nbgpu/v1/hosts', host)) as Host;
  }

  /** `check`: it is asked anew, and says what it lacks. */
  async actHost(name: string, action: 'check' | 'reconnect'): Promise<Host> {
    return (await this._json('POST', `nbgpu/v1/hosts/${encodeURIComponent(name)}/${action}`, {})) as Host;
  }

  /** What was made there stays on its disk. */
  async removeHost(name: string): Promise<void> {
    await this._send('DELETE', `nbgpu/v1/hosts/${encodeURIComponent(name)}`);
  }

  /** Pods and endpoints that name no place go there from now on. */
  async use(place: string): Promise<Settings> {
    return (await this._json('PATCH', 'nbgpu/v1/settings', { place })) as Settings;
  }

  /** Those in force of an endpoint, in the order in which they were made. */
  async keys(endpoint: string): Promise<Key[]> {
    return ((await this._json('GET', `nbgpu/v1/keys?endpoint=${encodeURIComponent(endpoint)}`)) as KeyList).keys;
  }

  /** This answer alone has the secret. */
  async addKey(wanted: Wanted): Promise<NewKey> {
    return (await this._json('POST', 'nbgpu/v1/keys', wanted)) as NewKey;
  }

  /** It opens nothing any more when this returns; what it has in progress goes on. */
  async revoke(id: string): Promise<Key> {
    return (await this._json('DELETE', `nbgpu/v1/keys/${encodeURIComponent(id)}`)) as Key;
  }

  /** Stream an answer; what it waits for comes first. */
  async *ask(name: string, question: Question, signal: AbortSignal): AsyncGenerator<Piece> {
    const { text, raw, maxTokens } = question;
    const route = raw ? 'completions' : 'chat/completions';
    const prompt = raw ? { prompt: text } : { messages: [{ role: 'user', content: text }] };
    const response = await this._send(
      'POST',
      `v2/${encodeURIComponent(name)}/openai/v1/${route}`,
      { model: name, stream: true, max_tokens: maxTokens, ...prompt },
      { signal, headers: { 'X-Nbgpu-Progress': '1', Accept: 'text/event-stream' } }
    );
    if (!response.body) {
      throw new Failure('The answer is empty.', 'Ask again.');
    }
    yield* pieces(response.body);
  }

  private async _json(method: string, path: string, body?: unknown): Promise<unknown> {
    return (await this._send(method, path, body)).json();
  }

  private async _send(
    method: string,
    path: string,
    body?: unknown,
    more: { signal?: AbortSignal; headers?: Record<string, string> } = {}
  ): Promise<Response> {
    const url = URLExt.join(this._settings.baseUrl, 'nbgpu/api', path);
    const init: RequestInit = { method, ...more };
    if (body !== undefined) {
      init.body = JSON.stringify(body);
      init.headers = { 'Content-Type': 'application/json', ...more.headers };
    }
    let response: Response;
    try {
      response = await ServerConnection.makeRequest(url, init, this._settings);
    } catch (thrown) {
      if (more.signal?.aborted) {
        throw thrown;
      }
      throw failure(thrown);
    }
    if (!response.ok) {
      throw await ofResponse(response);
    }
    return response;
  }
}
