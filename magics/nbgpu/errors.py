"""What goes wrong in a notebook or on a command line: one sentence each (stdlib only).

nbgpu_backend.runtime.NbgpuError   what went wrong, and what to do next
└── OneLine                        shown without a traceback
    ├── ServiceError               the backend refused or failed (`.status`, `.code`, `.values`)
    │   ├── NotFound               404
    │   ├── Conflict               409
    │   └── EngineFailed           a model did not answer, or broke off (`.text`: what had come)
    ├── JobFailed                  a job ended without a result (`.job`, `.state`)
    │   ├── JobTimedOut            it took too long, or no worker took it in time
    │   └── JobCancelled
    ├── JobPending                 a job has no end yet (also a TimeoutError; `.job`)
    ├── BatchStopped               a map went no further; what it had is kept
    ├── BackendDown                the backend could not be started or reached
    ├── DeployFailed               the weights did not come
    ├── OpenFailed                 a pod did not come up
    ├── RunFailed                  code in a pod ended with an exception (`.run`, `.ename`, `.evalue`)
    ├── TransferFailed             a file did not arrive whole
    ├── Missing                    a Python package that is not installed
    └── UsageProblem               an argument that cannot be meant so; a typo
KeyboardInterrupt
└── Interrupted                    what was under way, and what became of it
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from nbgpu_backend.runtime import NbgpuError

__all__ = [
    "BackendDown", "BatchStopped", "Conflict", "DeployFailed", "EngineFailed", "Interrupted",
    "JobCancelled", "JobFailed", "JobPending", "JobTimedOut", "Missing", "NbgpuError", "NotFound",
    "OneLine", "OpenFailed", "RunFailed", "ServiceError", "TransferFailed", "UsageProblem", "closest", "shown",
]  # fmt: skip


class OneLine(NbgpuError):
    """An error whose sentence is all there is to see. It fails the cell, in nbclient and papermill too."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class ServiceError(OneLine):
    """The backend refused or failed. `status_code` is HTTP's, `code` is stable."""

    def __init__(
        self,
        what: str,
        next_step: str = "",
        *,
        code: str | None = None,
        status_code: int = 500,
        **values: object,
    ) -> None:
        super().__init__(what, next_step, code=code, **values)
        self.status_code = status_code


class NotFound(ServiceError):
    pass


class Conflict(ServiceError):
    pass


class EngineFailed(ServiceError):
    """`text` is what of the answer had come before it broke off."""

    text: str = ""


class JobFailed(OneLine):
    """`job` is its id, `state` RunPod's word for its end."""

    code = "job_failed"

    def __init__(self, what: str, next_step: str = "", *, job: str, state: str) -> None:
        super().__init__(what, next_step, job=job, state=state)
        self.job = job
        self.state = state


class JobTimedOut(JobFailed):
    code = "job_timed_out"


class JobCancelled(JobFailed):
    code = "job_cancelled"


class JobPending(OneLine, TimeoutError):
    """It goes on in the backend. `job` is its id."""

    code = "job_pending"

    def __init__(self, what: str, next_step: str = "", *, job: str) -> None:
        super().__init__(what, next_step, job=job)
        self.job = job


class BatchStopped(OneLine):
    code = "batch_stopped"


class BackendDown(OneLine):
    code = "backend"


class DeployFailed(OneLine):
    code = "fetch_failed"


class OpenFailed(OneLine):
    code = "open_failed"


class RunFailed(OneLine):
    """Code in a pod did not end well. `run` is its id; `ename` and `evalue` are those of the exception
    there, empty where the kernel died or the run was dropped; `state` is the run's last."""

    code = "run_failed"

    def __init__(
        self,
        what: str,
        next_step: str = "",
        *,
        run: str,
        state: str = "error",
        ename: str = "",
        evalue: str = "",
    ) -> None:
        super().__init__(what, next_step, run=run, state=state, ename=ename, evalue=evalue)
        self.run = run
        self.state = state
        self.ename = ename
        self.evalue = evalue


class TransferFailed(OneLine):
    code = "transfer_failed"


class Missing(OneLine):
    code = "missing_package"


class UsageProblem(OneLine):
    """A typo: the command line exits with 2, the magic raises IPython's UsageError."""

    code = "usage"


class Interrupted(KeyboardInterrupt):
    """An interrupt that says what became of what was under way."""

    def _render_traceback_(self) -> list[str]:
        return [f"KeyboardInterrupt: {self}"]


def shown(error: NbgpuError) -> OneLine:
    """The same error as one that is shown in one line."""
    if isinstance(error, OneLine):
        return error
    return BackendDown(error.what, error.next_step, code=error.code, **error.values)


def closest(word: str, known: Iterable[str]) -> str:
    """ " Did you mean x?", or nothing: to be put behind a sentence."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""
