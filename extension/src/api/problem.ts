import { ServerConnection } from '@jupyterlab/services';

/** Something that went wrong, in one sentence, and what to do about it. */
export class Failure extends Error {
  constructor(
    readonly what: string,
    readonly next = '',
    readonly code = '',
    readonly status = 0
  ) {
    super(next ? `${what} ${next}` : what);
    this.name = 'Failure';
  }
}

function record(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

/** The error object of the OpenAI routes. */
export function ofOpenAI(error: unknown, status = 0): Failure {
  const found = record(error);
  const what = text(found.message) || 'The model did not answer.';
  if (/chat template/i.test(what)) {
    return new Failure('This model knows no chat.', 'Tick “Raw text” and ask again.', 'no_chat', status);
  }
  return new Failure(what, '', text(found.code), status);
}

/** What a refused request says: a problem document, OpenAI's error object, or Jupyter's own. */
export function ofBody(body: unknown, status: number): Failure {
  const found = record(body);
  if (found.error !== undefined) {
    return ofOpenAI(found.error, status);
  }
  const ours = record(found.nbgpu);
  const what = text(ours.what) || text(found.detail) || text(found.message);
  if (what) {
    return new Failure(what, text(ours.what) ? text(ours.next) : '', text(ours.code), status);
  }
  return new Failure(`The server answered ${status}.`, 'Look into the log of Jupyter.', '', status);
}

export async function ofResponse(response: Response): Promise<Failure> {
  let body: unknown = null;
  try {
    body = await response.json();
  } catch {
    // not JSON: the status must do
  }
  if (response.status === 403 || response.status === 401) {
    return new Failure('Jupyter does not know you any more.', 'Reload the page.', 'login', response.status);
  }
  return ofBody(body, response.status);
}

/** Any thrown thing as a Failure. */
export function failure(thrown: unknown): Failure {
  if (thrown instanceof Failure) {
    return thrown;
  }
  if (thrown instanceof ServerConnection.NetworkError || thrown instanceof TypeError) {
    return new Failure('Jupyter does not answer.', 'See whether it still runs, then try again.', 'network');
  }
  return new Failure(thrown instanceof Error ? thrown.message : String(thrown));
}
