"""The handle of a job: what it shows, and what can be done with it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from nbgpu import errors, live, submission, wire
from nbgpu.formats import span
from nbgpu.results.jobs import JobView
from nbgpu.results.shape import Rich, html_line
from nbgpu.verbs.call import Call, part

if TYPE_CHECKING:
    from nbgpu_backend.schema.jobs import JobDetail

    from nbgpu.client import Client

POLL_S = 2.0  # one long poll while a line is shown
NOTICED_S = 1.0  # what is done sooner shows no line
STREAM_S = 10.0


class Job(Rich):
    """A job of an endpoint. It lives in the backend: this handle may come and go.

    `id` is its id, `endpoint` the endpoint's name; `status` asks for its state.
    """

    def __init__(
        self, client: Client, endpoint: str, id: str, detail: JobDetail | None = None
    ) -> None:
        self.id = id
        self.endpoint = endpoint
        self._client = client
        self._detail = detail

    # what it is

    @property
    def status(self) -> str:
        """IN_QUEUE, IN_PROGRESS, COMPLETED, FAILED, CANCELLED or TIMED_OUT, as of now."""
        return str(self._ask("GET", "status")["status"])

    @property
    def done(self) -> bool:
        return self.status in submission.FINAL

    @property
    def output(self) -> Any:
        """Its result, or what its handler told last of its progress; None if there is neither."""
        return self._ask("GET", "status").get("output")

    def show(self) -> JobDetail:
        """All that is known of it now: state, timeline, input and output, error, log lines."""
        self._detail = self._client.send(
            Call("GET", f"/nbgpu/v1/jobs/{part(self.id)}", "JobDetail", about=self.endpoint)
        )
        assert self._detail is not None
        return self._detail

    # its end

    def result(self, timeout: float | None = None) -> Any:
        """Wait for its output. `timeout` is in seconds; None waits for ever.

        Raises JobFailed, JobTimedOut or JobCancelled with the job's own error, and JobPending when the
        time is over: the job goes on.
        """
        began = time.monotonic()
        line = live.line()
        waited, state = False, "no longer waited for"
        try:
            while True:
                left = None if timeout is None else timeout - (time.monotonic() - began)
                wait = NOTICED_S if not waited else POLL_S
                found = self._ask(
                    "GET", "status-sync", wait_s=wait if left is None else min(wait, max(left, 0))
                )
                if found["status"] in submission.FINAL:
                    state = found["status"]
                    break
                past = time.monotonic() - began
                if timeout is not None and past >= timeout:
                    raise self._pending(found["status"], past)
                waited = True
                line.update(
                    f"job {self.id}: {self._waiting(found['status'])} · {span(past)} so far"
                )
        except KeyboardInterrupt:
            raise errors.Interrupted(
                f"interrupted; the job {self.id} goes on in the backend. "
                f"Cancel it with: %gpu cancel {self.id}"
            ) from None
        finally:
            took = span(time.monotonic() - began)
            line.end(f"job {self.id}: {state}, after {took}" if waited else "")
        if found["status"] != submission.COMPLETED:
            raise submission.failure(self.id, found["status"], found.get("error"))
        return found.get("output")

    def _pending(self, state: str, took: float) -> errors.JobPending:
        return errors.JobPending(
            f"The job {self.id} is {state} after {span(took)}; it goes on in the backend.",
            f"Wait for it with .result(), or see %gpu why {self.id}",
            job=self.id,
        )

    def _waiting(self, state: str) -> str:
        if state != submission.IN_QUEUE:
            return "in progress"
        try:
            found = self._client.send(
                Call("GET", f"/v2/serverless/{part(self.endpoint)}", "Endpoint")
            )
        except errors.OneLine:
            return "in the queue"
        return f"in the queue, {self.endpoint} is {found.nbgpu.state}: {found.nbgpu.reason.text}"

    def stream(self) -> Iterator[Any]:
        """What its handler yields, as it comes. Each piece is handed out once, to one reader.

        A handler that yields nothing gives nothing here: `result()` has what it returns. Raises JobFailed,
        JobTimedOut or JobCancelled at the end of a job without a result.
        """
        while True:
            found = self._ask("GET", "stream", wait_s=STREAM_S)
            for piece in found["stream"]:
                yield piece["output"]
            if found["status"] in submission.FINAL:
                state = found["status"]
                if (
                    found.get("code") == errors.JobCancelled.code
                ):  # for others' clients it is FAILED
                    state = submission.CANCELLED
                if state != submission.COMPLETED:
                    raise submission.failure(self.id, state, found.get("error"))
                return

    # what can be done with it

    def cancel(self) -> Job:
        """End it, wherever it is. One that has an end already keeps it."""
        self._ask("POST", "cancel")
        self._detail = None
        return self

    def retry(self) -> Job:
        """Run it once more, with the same id and input. Raises Conflict unless it failed or timed out."""
        self._ask("POST", "retry")
        self._detail = None
        return self

    def _ask(self, method: str, route: str, wait_s: float | None = None) -> dict[str, Any]:
        params: dict[str, str | int | list[str]] = {}
        if wait_s is not None:
            params["wait"] = round(wait_s * 1000)
        path = f"/v2/{part(self.endpoint)}/{route}/{part(self.id)}"
        # cancelling twice does no harm; a retry that came through leaves a job that cannot be retried
        call = Call(
            method, path, wire.JSON, params=params, again=route == "cancel", about=self.endpoint
        )
        found: dict[str, Any] = self._client.send(call)
        return found

    # how it shows itself

    def _view(self) -> JobView:
        detail = self._detail
        if detail is None or detail.job.state not in submission.FINAL:
            detail = self.show()
        return JobView(detail)

    def text(self) -> str:
        try:
            return self._view().text()
        except errors.OneLine as error:
            return f"job {self.id} of {self.endpoint}: {error}"

    def html(self) -> str:
        try:
            return self._view().html()
        except errors.OneLine as error:
            return html_line(f"job {self.id} of {self.endpoint}: {error}")

    def to_dict(self) -> dict[str, Any]:
        return self._view().to_dict()

    def json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, default=str)
