import { ofOpenAI } from './problem';
import { messages } from './sse';

/** What a request waits for. */
export interface Progress {
  state: string;
  text: string;
  phase: string | null;
  elapsed_s: number;
  typical_s: number | null;
  cost: string | null;
}

/** What a finished request took. */
export interface Done {
  queue_ms: number;
  cold: boolean;
  first_byte_ms: number | null;
  total_ms: number;
  tokens_in: number | null;
  tokens_out: number | null;
  cost: string | null;
}

export type Piece =
  | { kind: 'waiting'; progress: Progress }
  | { kind: 'text'; text: string }
  | { kind: 'done'; done: Done };

interface Chunk {
  error?: unknown;
  choices?: { text?: string; delta?: { content?: string | null } }[];
}

function told(comment: string, word: string): unknown {
  return comment.startsWith(`${word} {`) ? JSON.parse(comment.slice(word.length)) : null;
}

/** The pieces of a streamed answer. Throws a Failure for an error that comes in the stream. */
export async function* pieces(body: ReadableStream<Uint8Array>): AsyncGenerator<Piece> {
  for await (const message of messages(body)) {
    if (message.kind === 'comment') {
      const progress = told(message.text, 'nbgpu') as Progress | null;
      if (progress) {
        yield { kind: 'waiting', progress };
      }
      const done = told(message.text, 'nbgpu-done') as Done | null;
      if (done) {
        yield { kind: 'done', done };
      }
    } else if (message.text !== '[DONE]') {
      const chunk = JSON.parse(message.text) as Chunk;
      if (chunk.error !== undefined) {
        throw ofOpenAI(chunk.error);
      }
      const choice = chunk.choices?.[0];
      const text = choice?.delta?.content ?? choice?.text ?? '';
      if (text) {
        yield { kind: 'text', text };
      }
    }
  }
}
