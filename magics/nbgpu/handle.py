"""The handle of an endpoint: what it shows, and what can be done with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbgpu import errors, submission, wire
from nbgpu.job import Job
from nbgpu.results.endpoint import EndpointView
from nbgpu.results.events import EventListing
from nbgpu.results.keys import KeyListing, NewKey, RevokedKey
from nbgpu.results.story import Deleted, LogView, WhyView
from nbgpu.submission import Seconds
from nbgpu.verbs.call import Call, part

if TYPE_CHECKING:
    from nbgpu.batch.result import MapResult
    from nbgpu.client import Client


class Endpoint(EndpointView):
    """An endpoint, and what can be done with it. What it shows is as of the last call."""

    def __init__(self, client: Client, data: Any) -> None:
        super().__init__(data)
        self._client = client

    def ask(self, text: str, *, stream: bool = False, **options: Any) -> Any:
        """An `Answer`, or with `stream=True` an iterator over pieces of text."""
        return self._client.ask(self.name, text, stream=stream, **options)

    @property
    def openai(self) -> Any:
        """An `openai.OpenAI` client of this endpoint. Raises Missing if openai is not installed."""
        try:
            from openai import OpenAI
        except ImportError:
            raise errors.Missing(
                "The package openai is not installed.", "Install it with: %pip install openai"
            ) from None
        import httpx

        from nbgpu.client import STREAM_TIMEOUT

        http = httpx.Client(trust_env=False, timeout=STREAM_TIMEOUT)
        return OpenAI(base_url=self.base_url, api_key=self._client.backend.token, http_client=http)

    # jobs

    def run(
        self,
        input: Any,
        *,
        webhook: str | None = None,
        execution_timeout: Seconds | None = None,
        ttl: Seconds | None = None,
        low_priority: bool = False,
    ) -> Job:
        """Submit a job; it is stored when this returns. `input` is any JSON, as its handler takes it.

        `execution_timeout` counts while it runs, `ttl` from now on, both in seconds (or "5m"); a
        `low_priority` job waits behind others and starts no worker. `webhook` is told of its end.
        """
        body = submission.body(
            input, webhook=webhook, execution_timeout=execution_timeout, ttl=ttl,
            low_priority=low_priority,
        )  # fmt: skip
        path = f"/v2/{part(self.name)}/run"
        found = self._client.send(Call("POST", path, wire.JSON, body=body, about=self.name))
        return Job(self._client, self.name, found["id"])

    def runsync(self, input: Any, timeout: float = 90, **options: Any) -> Any:
        """Submit a job and wait for its output, `timeout` seconds at most. Options are those of `run`.

        Raises what `Job.result` raises; on JobPending the job goes on, and `.job` is its id.
        """
        return self.run(input, **options).result(timeout)

    def stream(self, input: Any, **options: Any) -> Iterator[Any]:
        """Submit a job and hand out what its handler yields, as it comes."""
        return self.run(input, **options).stream()

    def jobs(self, state: str | list[str] | None = None, limit: int = 1000) -> Any:
        """Its jobs as a pandas frame, newest first; `state` as in `failed` or `["failed", "running"]`."""
        states = [state] if isinstance(state, str) else state
        return self._client.do("ls", kind="jobs", endpoint=self.name, state=states, limit=limit).df

    def map(self, values: Any, template: Any = None, **options: Any) -> MapResult:
        """Run a job for each of `values`: see `nbgpu.batch.run`, whose options these are."""
        from nbgpu.batch import run

        return run(self._client, self.show(), values, template, **options)

    def cancel_map(self, of: str | Path) -> int:
        """Cancel the jobs that an interrupted map left, and no others; returns how many there were.

        `of` is its `out`, its `name`, or the path of its journal.
        """
        from nbgpu.batch import cancel

        return cancel(self._client, self.name, of)

    # keys

    def key_add(
        self, label: str = "", *, per_minute: int | None = None, at_once: int | None = None
    ) -> NewKey:
        """A key that opens this endpoint and nothing else; its `.secret` is told this once."""
        found = self._client.do("key", action="add", name=self.name, label=label,
                                 per_minute=per_minute, at_once=at_once)  # fmt: skip
        assert isinstance(found, NewKey)
        return found

    def key_ls(self) -> KeyListing:
        """Its keys, with what came with each; `.df` is a frame."""
        found = self._client.do("key", action="ls", name=self.name)
        assert isinstance(found, KeyListing)
        return found

    def key_rm(self, id: str) -> RevokedKey:
        """Revoke a key: it opens nothing from now on."""
        found = self._client.do("key", action="rm", name=id)
        assert isinstance(found, RevokedKey)
        return found

    # what it did

    def metrics(self, since_us: int | None = None) -> Any:
        """Its requests as a pandas frame: `arrived` in UTC, times in ms, cost in dollars."""
        return self._client.frame("requests", self.name, since_us)

    def workers_timeline(self) -> Any:
        """The states of its workers over time, with reasons."""
        return self._mine(self._client.frame("workers"))

    def ledger(self) -> Any:
        """What was billed: one row an interval of one rate."""
        return self._mine(self._client.frame("ledger"))

    def _mine(self, frame: Any) -> Any:
        mine = frame["endpoint"].isin([self.name, self.data.id])
        return frame[mine].reset_index(drop=True)

    def chart(self, kind: str = "latency", **options: Any) -> Any:
        return self._client.do("chart", name=self.name, kind=kind, **options)

    def show(self) -> Endpoint:
        """The endpoint as it is now; this handle shows it too."""
        return self._fresh("show")

    def start(self) -> Endpoint:
        return self._fresh("start")

    def stop(self) -> Endpoint:
        return self._fresh("stop")

    def scale(self, **options: Any) -> Endpoint:
        """Options are those of the verb: workers, always_on, idle, delay, per_worker."""
        return self._fresh("scale", **options)

    def warm(self, for_: Seconds = 1800, workers: int = 1) -> Endpoint:
        """Start workers and keep them up for so long, in seconds (or "30m"); returns when they are ready."""
        return self._fresh("warm", for_=for_, workers=workers)

    def cool(self) -> Endpoint:
        """End `warm`: the workers stop when idle again."""
        return self._fresh("warm", off=True)

    def _fresh(self, verb: str, **options: Any) -> Endpoint:
        self.data = self._client.do(verb, name=self.name, **options).data
        return self

    def delete(self) -> Deleted:
        found = self._client.do("delete", name=self.name)
        assert isinstance(found, Deleted)
        return found

    def why(self) -> WhyView:
        found = self._client.do("why", name=self.name)
        assert isinstance(found, WhyView)
        return found

    def events(self, limit: int = 50) -> EventListing:
        """What happened to it, oldest first."""
        found = self._client.do("events", name=self.name, limit=limit)
        assert isinstance(found, EventListing)
        return found

    def logs(self, tail: int = 100) -> LogView:
        found = self._client.do("logs", name=self.name, tail=tail)
        assert isinstance(found, LogView)
        return found
