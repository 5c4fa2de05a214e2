import { expect, test } from 'vitest';
import { pieces } from './answer';
import { Failure } from './problem';
import { messages } from './sse';

function stream(...chunks: string[]): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(controller) {
      chunks.forEach(chunk => controller.enqueue(new TextEncoder().encode(chunk)));
      controller.close();
    }
  });
}

async function all<T>(found: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const one of found) {
    list.push(one);
  }
  return list;
}

test('messages cut anywhere come out whole', async () => {
  const found = await all(messages(stream('data: {"n"', ': 1}\n', '\n: wait', 'ing\n\ndata: 2\n\n')));
  expect(found).toEqual([
    { kind: 'data', text: '{"n": 1}' },
    { kind: 'comment', text: 'waiting' },
    { kind: 'data', text: '2' }
  ]);
});

test('the last message counts though no empty line follows it', async () => {
  expect(await all(messages(stream('data: 1')))).toEqual([{ kind: 'data', text: '1' }]);
});

test('a letter cut in two is one letter', async () => {
  const bytes = new TextEncoder().encode('data: ü\n\n');
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      controller.enqueue(bytes.slice(0, 7));
      controller.enqueue(bytes.slice(7));
      controller.close();
    }
  });
  expect(await all(messages(body))).toEqual([{ kind: 'data', text: 'ü' }]);
});

test('who stops reading ends the request', async () => {
  let cancelled = false;
  const body = new ReadableStream<Uint8Array>({
    pull: controller => controller.enqueue(new TextEncoder().encode('data: 1\n\n')),
    cancel: () => {
      cancelled = true;
    }
  });
  for await (const message of messages(body)) {
    expect(message.text).toBe('1');
    break;
  }
  expect(cancelled).toBe(true);
});

test('an answer is waiting, text and what it took', async () => {
  const found = await all(
    pieces(
      stream(
        ': nbgpu {"state": "starting", "text": "a worker starts", "elapsed_s": 1, "typical_s": null}\n\n',
        ': waiting\n\n',
        'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n',
        'data: {"choices": [{"delta": {"content": "Hel"}}]}\n\ndata: {"choices": [{"text": "lo"}]}\n\n',
        'data: {"choices": [], "usage": {}}\n\ndata: [DONE]\n\n',
        ': nbgpu-done {"total_ms": 12, "tokens_out": 2}\n\n'
      )
    )
  );
  expect(found.map(piece => piece.kind)).toEqual(['waiting', 'text', 'text', 'done']);
  expect(found.map(piece => (piece.kind === 'text' ? piece.text : '')).join('')).toBe('Hello');
});

test('an error in the stream is thrown as a sentence', async () => {
  const error = 'data: {"error": {"message": "The worker died.", "code": "worker_died"}}\n\n';
  await expect(all(pieces(stream(error)))).rejects.toThrow('The worker died.');
  await expect(all(pieces(stream(error)))).rejects.toBeInstanceOf(Failure);
});
