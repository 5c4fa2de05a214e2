"""The relay as a process, between a handler in plain HTTP and backends that come and go."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from nbgpu_backend import relay
from nbgpu_backend.providers.local import procfs
from nbgpu_backend.providers.local.relay_client import RelayClient, read_spool
from nbgpu_backend.providers.local.shim_client import NoAnswer

from tests.support.relay import IDLE, PATH, PYTHON, RELAY, Backend, Stand, rss, soon, stand

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="instances run on Linux")

JOB = b'{"id":"a","input":{"n":1}}'


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Stand]:
    async with stand(tmp_path / "w") as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def patience(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Future[tuple[int, float]]]]:
    """Polls of a relay that has no backend, held while the other tests run: (status, seconds)."""
    made = Stand(tmp_path_factory.mktemp("patience"), IDLE)
    pool = ThreadPoolExecutor(3)

    def ask(route: str) -> tuple[int, float]:
        url, key = asyncio.run(made.url(route)), asyncio.run(made.env())["RUNPOD_AI_API_KEY"]
        began = time.monotonic()
        asked = urllib.request.Request(url, headers={"Authorization": key})
        with urllib.request.urlopen(asked) as answer:
            return answer.status, time.monotonic() - began

    yield [pool.submit(ask, route) for route in ("job-take", "job-take-batch", "job-stop")]
    asyncio.run(made.close())
    pool.shutdown()


async def raw(there: Stand, request: bytes) -> bytes:
    """All that comes back for some bytes, until the relay closes or is silent."""
    reader, writer = await there.socket()
    writer.write(request)
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()


# requests


async def test_the_handler_finds_the_relay_in_its_environment(there: Stand) -> None:
    env = await there.env()
    base = f"http://127.0.0.1:{env['RUNPOD_WEBHOOK_PING'].split(':')[2].split('/')[0]}/v2/ep"
    assert env["RUNPOD_WEBHOOK_GET_JOB"] == f"{base}/job-take/$ID?gpu="
    assert env["RUNPOD_WEBHOOK_POST_OUTPUT"] == f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu="
    assert env["RUNPOD_WEBHOOK_POST_STREAM"] == f"{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu="
    assert env["RUNPOD_WEBHOOK_PING"] == f"{base}/ping/$RUNPOD_POD_ID?gpu="
    assert (env["RUNPOD_POD_ID"], env["RUNPOD_ENDPOINT_ID"]) == ("w1", "ep")
    assert env["RUNPOD_PING_INTERVAL"] == "5000" and len(env["RUNPOD_AI_API_KEY"]) >= 32
    backend = await there.backend()
    hello = await backend.next()
    assert hello.header == {"op": "hello", "held": [], "pid": hello.header["pid"], "unacked": 0}
    handler = procfs.stat(hello.header["pid"])
    assert handler is not None and handler.ppid == there.process.pid == handler.group
    assert (there.folder / "relay.sock").stat().st_mode & 0o077 == 0


async def test_only_the_key_opens_it(there: Stand) -> None:
    url, key = await there.url("ping"), (await there.env())["RUNPOD_AI_API_KEY"]
    session = await there.session()
    for sent, status in [
        (key, 200),
        (f"Bearer {key}", 200),
        (f"bearer {key}", 200),
        ("", 401),
        (key[:-1], 401),
        (f"Basic {key}", 401),
        ("é", 401),
    ]:
        async with session.get(url, headers={"Authorization": sent}) as answer:
            assert answer.status == status, sent


async def test_a_poll_becomes_a_want_and_gets_its_job(there: Stand) -> None:
    backend = await there.backend()
    await backend.next("hello")
    poll = asyncio.create_task(there.take(busy=True))
    want = await backend.next()
    assert want.header == {"op": "want", "poll": 1, "n": 1, "busy": True}
    backend.client.jobs(1, [("a", JOB)])
    assert (await backend.next()).header == {"op": "took", "poll": 1}
    assert await poll == (200, json.loads(JOB))
    assert read_spool(there.folder).held == ["a"]
    again = asyncio.create_task(there.take(slots=3))
    assert (await backend.next()).header == {"op": "want", "poll": 2, "n": 3, "busy": False}
    backend.client.jobs(2, [("b", b'{"id":"b"}'), ("c", b'{"id":"c"}')])
    assert await again == (200, [{"id": "b"}, {"id": "c"}])
    assert read_spool(there.folder).held == ["a", "b", "c"]


async def test_a_batch_of_one_is_a_list(there: Stand) -> None:
    backend = await there.backend()
    poll = asyncio.create_task(there.take(slots=2))
    await backend.give(("a", JOB))
    assert await poll == (200, [json.loads(JOB)])


async def test_posts_come_up_numbered_as_they_were_sent(there: Stand) -> None:
    backend = await there.backend()
    poll = asyncio.create_task(there.take())
    await backend.give(("a", JOB))
    await poll
    chunk, progress, result = (
        b'{"output":"\xc3\xa9\n"}',
        b'{"status":"IN_PROGRESS"}',
        b'{"output":[]}',
    )
    assert await there.post("a", chunk, "job-stream") == 200
    assert await there.post("a", progress) == 200
    assert read_spool(there.folder).held == ["a"]
    url = (await there.url("job-done", "a")).replace("isStream=false", "isStream=true")
    async with (await there.session()).post(url, data=result) as answer:
        assert answer.status == 200
    frames = [await backend.next() for _ in range(3)]
    assert [frame.body for frame in frames] == [chunk, progress, result]
    keys = ("n", "kind", "job", "stream", "final")
    assert [[frame.header[key] for key in keys] for frame in frames] == [
        [1, "stream", "a", False, False],
        [2, "done", "a", False, False],
        [3, "done", "a", True, True],
    ]
    read = read_spool(there.folder)
    assert read.held == [] and [one.body for one in read.posts] == [chunk, progress, result]


async def test_pings_and_what_is_wrong_are_told(there: Stand) -> None:
    backend = await there.backend()
    url = await there.url("ping")
    assert (await there.get(f"{url}&job_id=a%2Cb&runpod_version=1.12.0"))[0] == 200
    frame = await backend.next("ping")
    assert frame.header == {"op": "ping", "ids": ["a", "b"], "version": "1.12.0"}
    await there.get(url)
    assert (await backend.next()).header == {"op": "ping", "ids": [], "version": ""}
    await there.get(f"{url}&status=unhealthy&check=disk&reason=no+room%21")
    frame = await backend.next()
    assert frame.header == {"op": "unhealthy", "check": "disk", "reason": "no room!"}


async def test_each_stop_is_told_once(there: Stand) -> None:
    backend = await there.backend()
    poll = asyncio.create_task(there.take(slots=2))
    await backend.give(("a", JOB), ("b", JOB))
    await poll
    url = await there.url("job-stop")
    backend.client.stop(["a", "never given"])
    assert await there.get(url) == (200, {"jobsToStop": ["a"]})
    held = asyncio.create_task(there.get(url))
    backend.client.stop(["a"])
    backend.client.stop(["b"])
    assert await held == (200, {"jobsToStop": ["b"]})
    # the handler posts nothing for a job that it stopped
    backend.client.forget(["a"])
    await soon(lambda: read_spool(there.folder).held == ["b"])


async def test_whatever_is_sent_is_answered_without_a_fault(there: Stand) -> None:
    key = (await there.env())["RUNPOD_AI_API_KEY"].encode()
    post = b"POST /v2/ep/job-done/w1/a HTTP/1.1\r\nAuthorization: " + key + b"\r\n"
    close = b"Connection: close\r\n"
    for request, status in [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 401),
        (b"GET /v2/ep/jobs/w1 HTTP/1.1\r\n" + close + b"authorization:" + key + b"\r\n\r\n", 404),
        (b"GET " + b"x" * 70_000, 431),
        (post + b"Content-Length: many\r\n\r\n", 400),
        (post + b"Content-Length: -1\r\n\r\n", 400),
        (post + b"Transfer-Encoding: chunked\r\n\r\nno\r\n", 400),
        (
            b"GET /v2/ep/job-take-batch/w1?batch_size=x HTTP/1.1\r\nAuthorization: "
            + key
            + b"\r\n\r\n",
            400,
        ),
        (b"PUT" + post[4:] + close + b"\r\n", 404),
        (post + b"Content-Length: 2\r\n" + close + b"\r\n{}", 200),
        (post.replace(b"1.1", b"1.0") + b"Content-Length: 2\r\n\r\n{}", 200),
        (
            post
            + close
            + b'Transfer-Encoding: chunked\r\n\r\n3;x=y\r\n{"o\r\n4\r\n":1}\r\n0\r\nT: t\r\n\r\n',
            200,
        ),
    ]:
        answer = await raw(there, request)
        assert answer.startswith(b"HTTP/1.1 %d " % status), (request[:100], answer)
    # two requests at once, and one that asks before it sends
    ping = b"GET /v2/ep/ping/w1 HTTP/1.1\r\nAuthorization: " + key + b"\r\n"
    assert (await raw(there, ping + b"\r\n" + ping + close + b"\r\n")).count(b" 200 OK") == 2
    asked = await raw(
        there, post + b"Expect: 100-continue\r\nContent-Length: 2\r\n" + close + b"\r\n{}"
    )
    assert asked.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
    assert [one.body for one in read_spool(there.folder).posts] == [b"{}", b"{}", b'{"o":1}', b"{}"]


async def test_a_request_that_is_cut_off_is_no_post(there: Stand) -> None:
    key = (await there.env())["RUNPOD_AI_API_KEY"].encode()
    _, writer = await there.socket()
    writer.write(
        b"POST /v2/ep/job-done/w1/a HTTP/1.1\r\nAuthorization: "
        + key
        + b"\r\nContent-Length: 10\r\n\r\n{}"
    )
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert await there.post("b", b"{}") == 200
    assert [one.job for one in read_spool(there.folder).posts] == ["b"]


async def test_30_mb_pass_and_more_than_64_fail_the_job_with_a_sentence(there: Stand) -> None:
    backend = await there.backend()
    poll = asyncio.create_task(there.take(slots=3))
    await backend.give(("a", JOB), ("b", JOB), ("c", JOB))
    await poll
    large = b'{"output":"' + b"IN_PROGRESS " * 2_500_000 + b'"}'
    assert await there.post("a", large) == 200
    assert (await backend.next("post")).body == large
    too_large = b"x" * (relay.BODY_LIMIT + 1)
    assert await there.post("b", too_large) == 413
    frame = await backend.next("post")
    assert (frame.header["job"], frame.header["kind"], frame.header["final"]) == ("b", "done", True)
    assert "64 MiB" in json.loads(frame.body)["error"]
    assert await there.post("b", too_large) == 413  # the handler's second try

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(65):
            yield b"x" * (1 << 20)

    session = await there.session()
    async with session.post(await there.url("job-stream", "c"), data=pieces()) as answer:
        assert answer.status == 413
    frame = await backend.next("post")
    assert frame.header["n"] == 3 and "chunk" in json.loads(frame.body)["error"]
    backend.client.ack(3)
    assert read_spool(there.folder).held == []
    await soon(lambda: (there.folder / "spool").stat().st_size == 0)
    assert rss(there.process.pid) < 60 << 20


# backends


async def test_a_poll_that_is_given_up_is_no_want_any_more(there: Stand) -> None:
    backend = await there.backend()
    poll = asyncio.create_task(there.take())
    want = await backend.next("want")
    poll.cancel()
    assert (await backend.next()).header == {"op": "unwant", "poll": want.header["poll"]}
    backend.client.jobs(want.header["poll"], [("a", JOB)])
    assert (await backend.next()).header == {"op": "returned", "ids": ["a"]}
    assert read_spool(there.folder).held == []


@pytest.mark.parametrize("jobs_first", [True, False])
async def test_jobs_that_cross_a_hang_up_are_returned(there: Stand, jobs_first: bool) -> None:
    backend = await there.backend()
    session = await there.session()
    url = await there.url("job-take")
    _, writer = await there.socket()
    key = session.headers["Authorization"]
    writer.write(f"GET {url[url.index('/v2') :]} HTTP/1.1\r\nAuthorization: {key}\r\n\r\n".encode())
    want = await backend.next("want")
    os.kill(there.process.pid, signal.SIGSTOP)  # both are there when it looks
    try:
        if jobs_first:
            backend.client.jobs(want.header["poll"], [("a", JOB)])
            await asyncio.sleep(0)
        writer.close()
        await writer.wait_closed()
        if not jobs_first:
            backend.client.jobs(want.header["poll"], [("a", JOB)])
            await asyncio.sleep(0)
    finally:
        os.kill(there.process.pid, signal.SIGCONT)
    frame = await backend.next("returned", "took")
    assert frame.header == {"op": "returned", "ids": ["a"]}
    assert read_spool(there.folder).held == []


async def test_more_jobs_than_a_poll_asked_for_come_back(there: Stand) -> None:
    backend = await there.backend()
    poll = asyncio.create_task(there.take())
    assert (await backend.give(("a", JOB), ("b", JOB))).header == {"op": "returned", "ids": ["b"]}
    assert await poll == (200, json.loads(JOB))
    assert read_spool(there.folder).held == ["a"]


async def test_draining_ends_the_polls_and_a_new_backend_decides_anew(there: Stand) -> None:
    backend = await there.backend()
    poll = asyncio.create_task(there.take())
    want = await backend.next("want")
    backend.client.drain(True)
    assert (await poll)[0] == 204
    assert (await backend.next()).header == {"op": "unwant", "poll": want.header["poll"]}
    began = time.monotonic()
    assert (await there.take())[0] == 204
    assert 0.9 < time.monotonic() - began < 3
    backend.client.drain(False)
    poll = asyncio.create_task(there.take())
    await backend.give(("a", JOB))  # the first want since: the drained polls were none
    assert (await poll)[0] == 200
    backend.client.drain(True)
    other = await there.backend()
    assert (await other.next()).header["held"] == ["a"]
    poll = asyncio.create_task(there.take())
    await other.give(("b", JOB))
    assert (await poll)[0] == 200


async def test_a_backend_that_returns_finds_everything_it_has_not_stored(there: Stand) -> None:
    first = await there.backend()
    poll = asyncio.create_task(there.take(slots=3))
    await first.give(("a", JOB), ("b", JOB), ("c", JOB))
    await poll
    await there.post("a", b'{"output":1}')
    await there.post("b", b'{"output":2}')
    assert [(await first.next("post")).header["n"] for _ in range(2)] == [1, 2]
    first.client.ack(1)
    first.client.close()
    assert await first.ended()
    await there.post("c", b'{"status":"IN_PROGRESS","output":3}')
    waiting = [asyncio.create_task(there.take()) for _ in range(2)]
    await there.get(await there.url("ping"))
    second = await there.backend()
    frames = [await second.next() for _ in range(3)]
    hello = frames[0].header
    assert (hello["op"], hello["held"], hello["unacked"]) == ("hello", ["c"], 2)
    assert [(one.op, one.header["n"]) for one in frames[1:]] == [("post", 2), ("post", 3)]
    wants = [await second.next() for _ in waiting]
    assert [want.op for want in wants] == ["want", "want"]
    for want in wants:
        second.client.jobs(want.header["poll"], [(f"x{want.header['poll']}", JOB)])
    assert [(await task)[0] for task in waiting] == [200, 200]


async def test_a_backend_may_acknowledge_what_the_one_before_it_got(there: Stand) -> None:
    first = await there.backend()
    for n in range(3):
        await there.post(f"j{n}", b"{}")
    await first.next("post")
    second = await there.backend()
    second.client.ack(2)
    await there.post("last", b"{}")
    numbers = [(await second.next("post")).header["n"] for _ in range(2)]
    assert numbers[-1] in (2, 4)  # those that were on their way come still
    third = await there.backend()
    assert [(await third.next("post")).header["n"] for _ in range(2)] == [3, 4]


async def test_a_backend_that_vanishes_within_a_frame_has_said_nothing(there: Stand) -> None:
    backend = await there.backend()
    poll = asyncio.create_task(there.take())
    want = await backend.next("want")
    line = {"op": "jobs", "poll": want.header["poll"], "ids": ["a"], "sizes": [26], "size": 26}
    whole = relay.encode(line) + JOB
    for cut in (5, len(whole) - len(JOB), len(whole) - 1):
        _, writer = await there.backend_socket()
        writer.write(b'{"op":"hello"}\n' + whole[:cut])
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    assert read_spool(there.folder).held == []
    other = await there.backend()
    assert (await other.next()).header["held"] == []
    assert (await other.give(("a", JOB))).op == "took"
    assert await poll == (200, json.loads(JOB))


async def test_the_newer_of_two_backends_is_the_one(there: Stand) -> None:
    first = await there.backend()
    poll = asyncio.create_task(there.take())
    want = await first.next("want")
    second = await there.backend()
    assert (await second.next()).op == "hello"
    assert (await second.next()).header == want.header
    first.client.jobs(want.header["poll"], [("late", JOB)])
    assert await first.ended()
    second.client.jobs(want.header["poll"], [("a", JOB)])
    assert (await second.next()).op == "took"
    assert (await poll)[0] == 200
    assert read_spool(there.folder).held == ["a"]


async def test_frames_that_make_no_sense_end_a_connection_and_harm_nothing(there: Stand) -> None:
    for sent in [
        b"nonsense\n",
        b'{"op":"ack","n":0}\n',  # before a hello
        b'{"op":"hello"}\n[]\n',
        b'{"op":"hello"}\n{"op":"ack","n":1}\n',  # there is no such post
        b'{"op":"hello"}\n{"op":"jobs","poll":1,"ids":["a"],"sizes":[9],"size":1}\nx',
        b'{"op":"hello"}\n{"op":"jobs","poll":1,"ids":["a"],"sizes":[-1],"size":-1}\n',
        b'{"op":"hello"}\n' + b"x" * (relay.LINE_LIMIT + 1),
    ]:
        reader, writer = await there.backend_socket()
        writer.write(sent)
        async with asyncio.timeout(5):
            try:
                await reader.read()  # to its end
            except ConnectionResetError:
                pass
        writer.close()
    backend = await there.backend()
    backend.client._send({"op": "of the future", "size": 3}, b"abc")
    poll = asyncio.create_task(there.take())
    assert (await backend.give(("a", JOB))).op == "took"
    assert (await poll)[0] == 200


async def test_a_backend_that_does_not_read_holds_nobody_up(there: Stand) -> None:
    _, deaf = await there.backend_socket()
    deaf.write(b'{"op":"hello"}\n')
    before = rss(there.process.pid)
    slowest = 0.0
    for n in range(40):
        began = time.monotonic()
        assert await there.post(f"j{n}", b"%d" % n + b"x" * (1 << 20)) == 200
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 5
    assert rss(there.process.pid) < before + (12 << 20)
    backend = await there.backend()
    posts = [await backend.next("post") for _ in range(40)]
    assert [one.header["n"] for one in posts] == list(range(1, 41))
    assert all(one.body.startswith(b"%dx" % n) for n, one in enumerate(posts))
    deaf.close()


async def test_no_relay_is_no_answer(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(NoAnswer):
            await RelayClient.connect(folder)


# ends


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 3", 3),
        ("kill -KILL $$", -9),
        ("kill -SEGV $$", -11),
        ("kill -TERM $$", -15),
        ("sleep 1000 & sleep 1000 & exit 4", 4),  # what it leaves behind is the shim's
    ],
)
async def test_it_ends_as_the_handler_does(tmp_path: Path, script: str, code: int) -> None:
    async with stand(tmp_path, ["sh", "-c", script]) as there:
        assert await there.code() == code
        assert not (tmp_path / "relay.sock").exists()


async def test_a_handler_that_cannot_be_started_is_said_so(tmp_path: Path) -> None:
    async with stand(tmp_path, ["/no/such/python", "x.py"]) as there:
        assert await there.code() == 127
    assert "/no/such/python" in (tmp_path / "log").read_text()


async def test_killing_the_relay_ends_the_handler(there: Stand) -> None:
    backend = await there.backend()
    pid = (await backend.next()).header["pid"]
    os.kill(there.process.pid, signal.SIGKILL)
    await there.code()
    await soon(lambda: not ((row := procfs.stat(pid)) and row.alive))
    assert await backend.ended()


async def test_term_ends_the_polls_and_lets_the_handler_finish(tmp_path: Path) -> None:
    script = """
import json, os, signal, time, urllib.request
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
env = os.environ
def ask(url, data=None):
    key = {"Authorization": env["RUNPOD_AI_API_KEY"]}
    with urllib.request.urlopen(urllib.request.Request(url, data, key)) as answer:
        return answer.status
take = env["RUNPOD_WEBHOOK_GET_JOB"].replace("$ID", "w1")
assert ask(take) == 204
assert ended
assert ask(take.replace("job-take", "job-stop")) == 204
assert ask(env["RUNPOD_WEBHOOK_POST_OUTPUT"].replace("$ID", "a"), b'{"output":1}') == 200
raise SystemExit(5)
"""
    async with stand(tmp_path, [sys.executable, "-c", script]) as there:
        backend = await there.backend()
        await backend.next("want")
        began = time.monotonic()
        there.signal(signal.SIGTERM)
        assert (await backend.next("post")).body == b'{"output":1}'
        assert await there.code() == 5
        assert time.monotonic() - began < 4
    assert [one.job for one in read_spool(tmp_path).posts] == ["a"]


async def test_bad_arguments_are_said_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [PYTHON, "-I", "-S", "-E", str(RELAY), "--endpoint", "e", "--", "true"],
        capture_output=True,
        cwd=tmp_path,
        env={"PATH": PATH},
    )
    assert done.returncode == 64 and b"usage" in done.stderr


# what nothing may be lost by


class Load:
    """Six posters, a taker, and a backend that stores some; all that each of them was told."""

    def __init__(self, there: Stand, dice: random.Random) -> None:
        self.there, self.dice = there, dice
        self.answered: dict[str, bytes] = {}  # by the mark that a body begins with
        self.took: set[str] = set()
        self.acked: set[str] = set()

    async def run(self) -> None:
        await self.there.session()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._store(await self.there.backend()))
            group.create_task(self._take())
            for who in range(6):
                group.create_task(self._post(who))

    async def _store(self, backend: Backend) -> None:
        number = 0
        seen: set[str] = set()
        while True:
            frame = await backend.next()
            if frame.op == "want":
                ids = [f"t{number + i}" for i in range(frame.header["n"])]
                number += len(ids)
                backend.client.jobs(frame.header["poll"], [(x, JOB) for x in ids])
            elif frame.op == "post":
                seen.add(frame.body[:20].decode())
                if self.dice.random() < 0.7:
                    self.acked |= seen
                    backend.client.ack(frame.header["n"])

    async def _post(self, who: int) -> None:
        for n in itertools.count():
            mark = f"p{who}-{n}".ljust(20)
            body = mark.encode() + b"x" * self.dice.choice([0, 100, 20_000, 150_000])
            assert await self.there.post(f"p{who}-{n}", body) == 200
            self.answered[mark] = body

    async def _take(self) -> None:
        while True:
            _, got = await self.there.take(slots=2)
            count = len(self.took)
            self.took |= {f"t{count + i}" for i in range(len(got))}


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_was_answered_200_survives_a_kill(tmp_path: Path, seed: int) -> None:
    """At many instants, with takes, large and small posts, and a spool that is cut meanwhile."""
    dice = random.Random(seed)
    for turn in range(12):
        folder = tmp_path / str(turn)
        async with stand(folder) as there:
            load = Load(there, dice)
            running = asyncio.create_task(load.run())
            await soon(lambda load=load: len(load.answered) > 5)
            await asyncio.sleep(dice.uniform(0, 0.25))
            os.kill(there.process.pid, signal.SIGKILL)
            await there.code()
            with pytest.raises(ExceptionGroup):
                await asyncio.wait_for(running, 10)
        read = read_spool(folder)
        kept = {one.body[:20].decode(): one.body for one in read.posts}
        assert set(load.answered) - load.acked <= set(kept)
        assert all(kept.get(mark, body) == body for mark, body in load.answered.items())
        assert load.took <= set(read.held)
        numbers = [one.n for one in read.posts]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
async def test_on_a_full_disk_results_wait_and_jobs_are_returned(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        async with stand(folder) as there:
            backend = await there.backend()
            assert await there.post("a", b"a" * 1_000_000) == 200
            filler = folder / "filler"
            filler.write_bytes(b"x" * 1_900_000)
            waiting = asyncio.create_task(there.post("b", b"b" * 500_000))
            gone = asyncio.create_task(there.post("c", b"c" * 500_000))
            await soon(lambda: "No space left" in (folder / "log").read_text())
            gone.cancel()
            while filler.stat().st_size < 3 << 20:
                try:
                    with filler.open("ab") as file:
                        file.write(b"x" * 4096)
                except OSError:
                    break
            poll = asyncio.create_task(there.take())
            want = (await backend.next("want")).header["poll"]
            backend.client.jobs(want, [("t", JOB)])
            frame = await backend.next("took", "returned")
            status, _ = await poll
            # the last page of the file may still have room for some bytes
            assert (frame.op, status) in [("returned", 429), ("took", 200)]
            assert not waiting.done()
            filler.unlink()
            assert await waiting == 200
            assert [(one.n, one.job) for one in read_spool(folder).posts] == [(1, "a"), (2, "b")]
            # more than it can keep in mind: the package tries again after a 503
            large = [there.post(f"x{n}", b"x" * (30 << 20)) for n in range(5)]
            tasks = [asyncio.create_task(one) for one in large]
            done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            assert [task.result() for task in done] == [503] and len(left) == 4
            assert await there.post("d", b"d") == 200
            for task in left:
                task.cancel()
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        shutil.rmtree(folder, ignore_errors=True)


async def test_100_000_jobs_leave_memory_and_spool_as_they_were(
    there: Stand, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = await there.backend()
    batch, rounds = 1000, 100

    def ids(turn: int) -> list[str]:
        return [f"{turn:06}-{n:06}" for n in range(batch)]

    async def store() -> None:
        async for frame in backend.frames:
            if frame.op == "post":
                number = frame.header["n"]
                if number % 50 == 0:
                    backend.client.ack(number)
                if number == batch * rounds:
                    return
            elif frame.op == "want":
                poll = frame.header["poll"]
                backend.client.jobs(poll, [(x, JOB) for x in ids(poll - 1)])

    key = (await there.env())["RUNPOD_AI_API_KEY"]
    path = await there.url("job-done", "JOB")
    path = path[path.index("/v2") :]

    def post(jobs: list[str], ends: list[socket.socket]) -> None:
        """One request on each connection, then the answers, and so on: in a thread."""
        for at in range(0, len(jobs), len(ends)):
            asked = list(zip(jobs[at:], ends, strict=False))
            for job, end in asked:
                head = f"POST {path.replace('JOB', job)} HTTP/1.1\r\nAuthorization: {key}\r\n"
                end.sendall(f'{head}Content-Length: 15\r\n\r\n{{"output":"ok"}}'.encode())
            for _, end in asked:
                answer = end.recv(1000)
                assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"{}")

    storing = asyncio.create_task(store())
    port = await there.port()
    ends = [socket.create_connection(("127.0.0.1", port), 15) for _ in range(500)]
    sizes, spools, rate = [], [], 0.0
    for turn in range(rounds):
        status, jobs = await there.take(slots=batch)
        assert status == 200 and len(jobs) == batch
        # a few connections for the figure, many for a quick end: they share their syncs
        count = 16 if 10 <= turn < 13 else len(ends)
        began = time.monotonic()
        await asyncio.to_thread(post, ids(turn), ends[:count])
        if count == 16:
            rate = max(rate, batch / (time.monotonic() - began))
        sizes.append(rss(there.process.pid))
        spools.append((there.folder / "spool").stat().st_size)
    await storing
    for end in ends:
        end.close()
    with capsys.disabled():
        print(f"\nrelay: {rate:.0f} posts/s from 16 connections, {sizes[-1] >> 10} KiB resident")
    assert sizes[-1] < sizes[rounds // 10] * 1.1
    assert max(spools) < 3 * relay.COMPACT_FROM
    assert read_spool(there.folder).held == []


async def test_polls_without_a_backend_are_held_20_s(
    patience: list[Future[tuple[int, float]]],
) -> None:
    for poll in patience:
        status, seconds = await asyncio.wrap_future(poll)
        assert status == 204 and 19.5 < seconds < 25
