"""The tree of errors (stdlib only).

NbgpuError                  what went wrong, and what to do next
├── BadRequest         400  the request itself cannot be carried out as it stands
│   └── BadOption      422  an engine option that the engine does not know
├── Unauthorized       401  no or a wrong token or key
├── Forbidden          403  a key that does not open this
├── NotFound           404  no such endpoint, worker, model or route
├── Conflict           409  the name is taken, or the resource is in the wrong state
├── QueueFull          429  more requests wait than the endpoint admits
├── RateLimited        429  more than the key allows
├── PayloadTooLarge    413
├── UpstreamError      502  an engine or a model hub failed
│   └── WorkerDied     502  the worker ended while it answered
├── Unavailable        503  no capacity, an endpoint that is stopped or failed
│   ├── EngineMissing  503  the engine is not installed
│   └── NoMemory       503
├── HoldTimeout        504  no worker was ready, or answered, in time
├── DiskError          507  NBGPU_HOME is full, read-only or on a network file system
└── BackendError       500  the backend could not be started or reached
"""

from __future__ import annotations

from typing import ClassVar


class NbgpuError(Exception):
    """What happened, to what, and what to type next.

    `what` is one sentence. `next_step` is what the user can do about it, a sentence or empty.
    `code` is stable and machine-readable, `values` are the facts behind the sentence.
    """

    status: ClassVar[int] = 500
    code: str = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self, what: str, next_step: str = "", *, code: str | None = None, **values: object
    ) -> None:
        super().__init__(what)
        self.what = what
        self.next_step = next_step
        self.values = values
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.what} {self.next_step}".strip()


class BadRequest(NbgpuError):
    status, code, title = 400, "bad_request", "Bad request"


class BadOption(BadRequest):
    status, code, title = 422, "bad_option", "Unknown or bad option"


class Unauthorized(NbgpuError):
    status, code, title = 401, "unauthorized", "Unauthorized"


class Forbidden(NbgpuError):
    status, code, title = 403, "forbidden", "Forbidden"


class NotFound(NbgpuError):
    status, code, title = 404, "not_found", "Not found"


class Conflict(NbgpuError):
    status, code, title = 409, "conflict", "Conflict"


class PayloadTooLarge(NbgpuError):
    status, code, title = 413, "payload_too_large", "Payload too large"


class QueueFull(NbgpuError):
    """`retry_after_s` seconds is what the Retry-After header says."""

    status, code, title = 429, "queue_full", "Too many requests"
    retry_after_s: int = 5


class RateLimited(NbgpuError):
    """`retry_after_s` seconds is what the Retry-After header says."""

    status, code, title = 429, "rate_limit_exceeded", "Too many requests"

    def __init__(
        self, what: str, next_step: str = "", *, retry_after_s: int, code: str | None = None
    ) -> None:
        super().__init__(what, next_step, code=code)
        self.retry_after_s = retry_after_s


class UpstreamError(NbgpuError):
    status, code, title = 502, "upstream", "Upstream failed"


class WorkerDied(UpstreamError):
    code, title = "worker_died", "The worker died"


class Unavailable(NbgpuError):
    status, code, title = 503, "unavailable", "Unavailable"


class EngineMissing(Unavailable):
    code, title = "engine_missing", "Engine not installed"


class NoMemory(Unavailable):
    code, title = "no_memory", "Too little memory"


class HoldTimeout(NbgpuError):
    status, code, title = 504, "hold_timeout", "Timed out"


class DiskError(NbgpuError):
    status, code, title = 507, "disk", "Disk trouble"


class BackendError(NbgpuError):
    status, code, title = 500, "backend", "Backend trouble"
