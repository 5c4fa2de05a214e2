"""RunPod's serverless job API and worker protocol under `/v2/{endpoint}/…`, as plain ASGI.

The field names, states and codes are RunPod's; what its SDKs insist on is kept: 200 on /run, `stream` in
every answer of /stream, both times and the worker in every job object, `status` in every error.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from nbgpu_backend.domain.jobs import (
    CANCELLED,
    FAILED,
    IN_QUEUE,
    BadSubmission,
    read_chunk,
    read_post,
    read_submission,
)
from nbgpu_backend.domain.names import RESERVED, did_you_mean
from nbgpu_backend.errors import BadRequest, Forbidden, NbgpuError, NotFound
from nbgpu_backend.serving.auth import Access, check_endpoint
from nbgpu_backend.serving.exchange import ClientGone, Exchange, Receive, Scope, Send
from nbgpu_backend.serving.external import ExternalWorkers
from nbgpu_backend.serving.keys import Key
from nbgpu_backend.serving.target import Directory, Target

log = logging.getLogger(__name__)
T = TypeVar("T")

PATH = re.compile(
    r"/v2/(?P<endpoint>[A-Za-z0-9_-]+)/(?P<verb>run|runsync|status|status-sync|stream|cancel|retry"
    r"|purge-queue|health|metrics|job-take|job-take-batch|job-done|job-stream|job-stop|ping)"
    r"(?:/(?P<first>[^/]+))?(?:/(?P<second>[^/]+))?/?"
)
MEGABYTE = 1_000_000
RUN_LIMIT, RUNSYNC_LIMIT, POST_LIMIT = 10 * MEGABYTE, 20 * MEGABYTE, 64 * MEGABYTE
BIG = 256 << 10  # a longer text is read in a thread
RUNSYNC_WAIT_S, STREAM_WAIT_S = 90.0, 10.0
WAIT_MS = (0, 300_000)
POLL_S = 20.0  # how long a worker's poll is held
BATCH_MAX = 1000
JOB_CANCELLED = "job_cancelled"


class JobApi:
    def __init__(self, directory: Directory, externals: ExternalWorkers, access: Access) -> None:
        self._directory = directory
        self._externals = externals
        self._access = access

    @staticmethod
    def owns(path: str) -> bool:
        found = PATH.fullmatch(path)
        return found is not None and found["endpoint"] not in RESERVED

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match = PATH.fullmatch(scope["path"])
        assert match is not None
        call = _Call(self, Exchange(scope, receive, send), scope, match)
        try:
            await call.answer()
        except ClientGone:
            pass
        except asyncio.CancelledError:
            if not call.exchange.gone:
                raise
        except NbgpuError as error:
            await call.fail(error)
        except Exception:  # a worker would ask again at once after any other 5xx
            log.exception("%s %s", scope["method"], scope["path"])
            await call.fail(NbgpuError("A fault of nbgpu.", "See the backend's log."))
        finally:
            call.exchange.unwatch()


class _Call:
    def __init__(self, api: JobApi, exchange: Exchange, scope: Scope, match: re.Match[str]) -> None:
        self.exchange = exchange
        self._api = api
        self._method = scope["method"]
        self._verb, self._first, self._second = match["verb"], match["first"], match["second"]
        self._name = match["endpoint"]
        self._key: Key | None = None
        self._query = dict(parse_qsl(scope["query_string"].decode("latin-1")))

    async def answer(self) -> None:
        self._key = self._api._access.of(self.exchange.headers)
        if self._key is not None and self._verb in WORKER_VERBS:
            raise Forbidden(
                f"/{self._verb} is for workers, and a key is for those who send them jobs.",
                "Use the token of NBGPU_HOME/run/backend.json.",
            )
        target = self._target()
        needs = ARGUMENTS.get(self._verb, 0)
        given = (self._first is not None) + (self._second is not None)
        if given != needs:
            raise NotFound(f"/{self._verb} takes {needs} further parts in its path.", "")
        if self._method not in METHODS.get(self._verb, ("GET", "POST")):
            raise BadRequest(f"{self._method} is not served here.", "Use POST.", code="method")
        if target.balances and self._verb not in ("health", "metrics"):
            raise NotFound(
                f"'{target.name}' is a load balancer: it has no queue of jobs.",
                f"Its HTTP server is reached at /lb/{target.name}/.",
                code="not_a_queue",
            )
        await getattr(self, "_" + self._verb.replace("-", "_"))(target)

    def _target(self) -> Target:
        target = self._api._directory.find(self._name)
        if self._key is not None:
            check_endpoint(self._key, target, self._name)
        if target is None:
            hint = did_you_mean(self._name, self._api._directory.names())
            raise NotFound(
                f"There is no endpoint '{self._name}'.",
                hint or "See nbgpu ls, or make it with nbgpu deploy.",
                code="endpoint_not_found",
            )
        return target

    # --- the client's side ------------------------------------------------------------------------

    async def _run(self, target: Target) -> None:
        job = await self._submit(target, RUN_LIMIT, sync=False)
        await self._json({"id": job.id, "status": IN_QUEUE})

    async def _runsync(self, target: Target) -> None:
        job = await self._submit(target, RUNSYNC_LIMIT, sync=True)
        await self._whole((await target.board.view(job.id, self._wait(RUNSYNC_WAIT_S))).body())

    async def _submit(self, target: Target, limit: int, *, sync: bool) -> Any:
        raw = await self.exchange.body(limit)
        try:
            submission = read_submission(await _loads(raw))
        except BadSubmission as error:
            raise BadRequest(str(error), 'For example: {"input": {"prompt": "Hello"}}') from None
        if (refusal := target.refusal()) is not None:
            raise refusal
        key = self._key
        if key is None:
            return await target.board.submit(submission, raw, self.exchange.client, sync=sync)
        with self._entered(key):
            return await target.board.submit(submission, raw, key.id, sync=sync, key=key.id)

    @contextlib.contextmanager
    def _entered(self, key: Key | None) -> Iterator[None]:
        """Within the limits of its key, while it is stored; from then on the job itself counts."""
        if key is None:
            yield
            return
        self._api._access.enter(key, self.exchange, "/" + self._verb)
        try:
            yield
        finally:
            key.allowance.leave()

    async def _status(self, target: Target) -> None:
        await self._whole((await target.board.view(self._first or "")).body())

    async def _status_sync(self, target: Target) -> None:
        view = await target.board.view(self._first or "", self._wait(RUNSYNC_WAIT_S))
        await self._whole(view.body())

    async def _stream(self, target: Target) -> None:
        self.exchange.watch()
        view, chunks = await target.board.stream(self._first or "", self._wait(STREAM_WAIT_S))
        head = {"id": view.id, "status": view.state}
        if view.error is not None:
            head["error"] = view.error
        if view.state == CANCELLED:
            # The Python SDK asks for ever after CANCELLED, and the JavaScript one throws at any code
            # but 200: FAILED ends the streams of both. /status has the state as it is.
            head |= {"status": FAILED, "error": "The job was cancelled.", "code": JOB_CANCELLED}
        parts = b", ".join(b'{"output": ' + chunk + b"}" for chunk in chunks)
        await self._whole(json.dumps(head).encode()[:-1] + b', "stream": [' + parts + b"]}")

    async def _cancel(self, target: Target) -> None:
        view = await target.board.cancel(self._first or "")
        await self._json({"id": view.id, "status": view.state})

    async def _retry(self, target: Target) -> None:
        if (refusal := target.refusal()) is not None:
            raise refusal
        with self._entered(self._key):
            view = await target.board.retry(self._first or "")
        await self._json({"id": view.id, "status": view.state})

    async def _purge_queue(self, target: Target) -> None:
        await self._json({"removed": await target.board.purge(), "status": "completed"})

    async def _health(self, target: Target) -> None:
        await self._json({"jobs": target.board.health(), "workers": target.worker_counts()})

    async def _metrics(self, target: Target) -> None:
        body = {"workers": target.worker_counts(), "readyWorkers": target.ready_workers()}
        await self._json(body)

    def _wait(self, default_s: float) -> float:
        text = self._query.get("wait")
        if text is None:
            return default_s
        try:
            milliseconds = float(text)
        except ValueError:
            raise BadRequest(f"'wait' cannot be {text!r}.", "It takes milliseconds.") from None
        return min(max(milliseconds, WAIT_MS[0]), WAIT_MS[1]) / 1000

    # --- the worker's side ------------------------------------------------------------------------

    async def _job_take(self, target: Target) -> None:
        jobs = await self._take(target, 1)
        await (self._whole(jobs[0][1]) if jobs else self._nothing())

    async def _job_take_batch(self, target: Target) -> None:
        text = self._query.get("batch_size", "1")
        slots = min(int(text), BATCH_MAX) if text.isdecimal() and int(text) else 1
        jobs = await self._take(target, slots)
        if jobs:
            await self._whole(b"[" + b", ".join(body for _, body in jobs) + b"]")
        else:
            await self._nothing()

    async def _take(self, target: Target, slots: int) -> Any:
        if not target.pulls:
            raise NotFound(
                f"The workers of '{target.name}' fetch no jobs.", "Deploy a handler for that."
            )
        busy = {"0": False, "1": True}.get(self._query.get("job_in_progress", ""))
        wire = self._api._externals.meet(target.board, self._first or "")
        self.exchange.watch()
        return await wire.take(slots, busy, POLL_S)

    async def _job_stop(self, target: Target) -> None:
        wire = self._api._externals.find(target.board, self._first or "")
        self.exchange.watch()
        ids = await wire.stops(POLL_S) if wire else await asyncio.sleep(1, [])
        await (self._json({"jobsToStop": ids}) if ids else self._nothing())

    async def _job_done(self, target: Target) -> None:
        verdict = await _parse(read_post, await self.exchange.body(POST_LIMIT))
        await target.board.done(self._first or "", self._second or "", verdict)
        await self._json({})

    async def _job_stream(self, target: Target) -> None:
        chunk, nulls = await _parse(read_chunk, await self.exchange.body(POST_LIMIT))
        await target.board.chunk(self._first or "", self._second or "", chunk, nulls=nulls)
        await self._json({})

    async def _ping(self, target: Target) -> None:
        worker = target.board.workers.get(self._first or "")
        if worker is not None:
            target.board.assignments.ping(
                worker, filter(None, self._query.get("job_id", "").split(","))
            )
        await self._json({})

    # --- answers ----------------------------------------------------------------------------------

    async def _json(self, body: dict[str, Any]) -> None:
        await self._whole(json.dumps(body).encode())

    async def _whole(self, body: bytes) -> None:
        await self.exchange.answer(200, body)

    async def _nothing(self) -> None:
        await self.exchange.answer(204, b"")

    async def fail(self, error: NbgpuError) -> None:
        status, headers = error.status, [(b"content-type", b"application/json")]
        after = getattr(error, "retry_after_s", None)
        if self._verb in WORKER_VERBS - POSTS and status >= 500:
            # 429 is the only code after which a worker pauses; a post is tried again after a 5xx alone
            status, after = 429, after or 5
        if after is not None:
            headers.append((b"retry-after", str(after).encode()))
        body: dict[str, Any] = {"status": FAILED, "error": str(error), "code": error.code}
        if self._first is not None and self._verb not in WORKER_VERBS:
            body["id"] = self._first
        if self._verb == "stream":
            body["stream"] = []
        await self.exchange.answer(status, json.dumps(body).encode(), headers)


WORKER_VERBS = frozenset(
    {"job-take", "job-take-batch", "job-done", "job-stream", "job-stop", "ping"}
)
POSTS = frozenset({"job-done", "job-stream"})
ARGUMENTS = {
    "status": 1, "status-sync": 1, "stream": 1, "cancel": 1, "retry": 1, "job-take": 1,
    "job-take-batch": 1, "job-done": 2, "job-stream": 2, "job-stop": 1, "ping": 1,
}  # fmt: skip
METHODS = {
    "run": ("POST",), "runsync": ("POST",), "cancel": ("POST",), "retry": ("POST",),
    "purge-queue": ("POST",), "job-done": ("POST",), "job-stream": ("POST",), "health": ("GET",),
}  # fmt: skip


async def _loads(raw: bytes) -> Any:
    try:
        return await _parse(json.loads, raw)
    except ValueError as error:
        raise BadRequest(f"The body is no JSON: {error}.", code="bad_json") from None
    except RecursionError:
        raise BadRequest("The body is nested too deeply.", code="bad_json") from None


async def _parse(function: Callable[[bytes], T], raw: bytes) -> T:
    """A long text is read in a thread, so that it delays nobody."""
    return await asyncio.to_thread(function, raw) if len(raw) > BIG else function(raw)
