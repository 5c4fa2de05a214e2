/** One server-sent event: its data, or a comment (`: …`). */
export interface Message {
  kind: 'data' | 'comment';
  text: string;
}

function read(block: string): Message | null {
  const lines = block.split(/\r?\n/);
  const data = lines.filter(line => line.startsWith('data:')).map(line => line.slice(5).trim());
  if (data.length > 0) {
    return { kind: 'data', text: data.join('\n') };
  }
  const comment = lines.find(line => line.startsWith(':'));
  return comment === undefined ? null : { kind: 'comment', text: comment.slice(1).trim() };
}

/** The messages of a stream, however its chunks are cut. */
export async function* messages(body: ReadableStream<Uint8Array>): AsyncGenerator<Message> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let buffer = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      buffer += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const blocks = buffer.split(/\r?\n\r?\n/);
      buffer = done ? '' : (blocks.pop() ?? '');
      for (const block of blocks) {
        const message = read(block);
        if (message) {
          yield message;
        }
      }
      if (done) {
        return;
      }
    }
  } finally {
    // A reader that stops early ends the request, and with it the work behind it.
    void reader.cancel().catch(() => undefined);
  }
}
