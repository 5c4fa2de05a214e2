import { ServerConnection } from '@jupyterlab/services';
import { expect, test } from 'vitest';
import { Client } from './client';

function client(...answers: Response[]) {
  const requests: Request[] = [];
  const fetch = (request: Request): Promise<Response> => {
    requests.push(request);
    return Promise.resolve(answers.shift() ?? new Response('{}'));
  };
  const settings = ServerConnection.makeSettings({
    baseUrl: 'http://hub/user/ada/',
    fetch: fetch as typeof globalThis.fetch
  });
  return { client: new Client(settings), requests };
}

test('addresses lie under the base URL, also with a prefix', async () => {
  const { client: found, requests } = client();
  await found.changes(7);
  expect(requests[0]?.url).toContain('http://hub/user/ada/nbgpu/api/nbgpu/v1/changes?since=7');
});

test('no token of the backend is sent', async () => {
  const { client: found, requests } = client();
  await found.act('chat', 'stop');
  const request = requests[0]!;
  expect(request.url).toContain('nbgpu/api/v2/serverless/chat/action');
  expect(request.headers.get('Authorization') ?? '').not.toContain('Bearer');
  expect(await request.json()).toEqual({ action: 'stop' });
});

test('to scale sends what is changed, and to warm how long', async () => {
  const { client: found, requests } = client();
  await found.scale('chat', { max: 4 });
  await found.warm('chat', 1800, 1);
  await found.why('w-1f');
  expect(requests.map(one => `${one.method} ${one.url.split('/nbgpu/api/')[1]?.split('?')[0]}`)).toEqual([
    'PATCH v2/serverless/chat', 'POST nbgpu/v1/warm/chat', 'GET nbgpu/v1/why/w-1f'
  ]);
  expect(await requests[0]!.json()).toEqual({ workers: { max: 4 } });
  expect(await requests[1]!.json()).toEqual({ seconds: 1800, workers: 1 });
});

test('keys are listed of one endpoint, made, and revoked by id', async () => {
  const { client: found, requests } = client(new Response('{"keys": []}'));
  expect(await found.keys('chat')).toEqual([]);
  await found.addKey({ endpoint: 'chat', label: 'app', perMinute: 60 });
  await found.revoke('key-1f');
  expect(requests.map(one => `${one.method} ${one.url.split('/nbgpu/api/')[1]}`)).toEqual([
    expect.stringMatching(/^GET nbgpu\/v1\/keys\?endpoint=chat(&|$)/),
    expect.stringMatching(/^POST nbgpu\/v1\/keys(\?|$)/),
    expect.stringMatching(/^DELETE nbgpu\/v1\/keys\/key-1f(\?|$)/)
  ]);
  expect(await requests[1]!.json()).toEqual({ endpoint: 'chat', label: 'app', perMinute: 60 });
});

test('a peek starts no backend', async () => {
  const { client: found, requests } = client(new Response(null, { status: 204 }), new Response('{"seq": 1}'));
  expect(await found.peek()).toBeNull();
  expect(requests[0]?.headers.get('X-Nbgpu-Start')).toBe('never');
  expect(await found.peek()).toEqual({ seq: 1 });
});

test('a question asks for a stream with its progress', async () => {
  const { client: found, requests } = client(new Response('data: {"choices": [{"delta": {"content": "hi"}}]}\n\n'));
  const said: string[] = [];
  const question = { text: 'Hello?', raw: false, maxTokens: 8 };
  for await (const piece of found.ask('chat', question, new AbortController().signal)) {
    said.push(piece.kind === 'text' ? piece.text : '');
  }
  const request = requests[0]!;
  expect(said).toEqual(['hi']);
  expect(request.headers.get('X-Nbgpu-Progress')).toBe('1');
  expect(await request.json()).toMatchObject({ stream: true, messages: [{ role: 'user', content: 'Hello?' }] });
});

test('a refusal is a Failure with the sentence', async () => {
  const body = JSON.stringify({ detail: 'There is no endpoint.', nbgpu: { what: 'There is no endpoint.' } });
  const { client: found } = client(new Response(body, { status: 404 }));
  await expect(found.remove('x')).rejects.toThrow('There is no endpoint.');
});
