"""The backend as a process: run it in the foreground, end it."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from typing import Any

from nbgpu_backend import runtime

from nbgpu import errors
from nbgpu.results.shape import Rich, html_line
from nbgpu.verbs.call import Context

END_S = 90.0


class Ended(Rich):
    def __init__(self, said: str, pid: int | None) -> None:
        self.said = said
        self.pid = pid

    def text(self) -> str:
        return self.said

    def html(self) -> str:
        return html_line(self.said)

    def to_dict(self) -> dict[str, Any]:
        return {"ended": self.pid}


def serve() -> object:
    """Become the backend. It says itself if one runs already."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "nbgpu_backend"])


def shutdown(context: Context, *, everything: bool, sure: bool) -> Ended:
    """End the backend, also one of another version. Never starts one to end it."""
    home = runtime.Home.default()
    backend = runtime.read(home)
    if backend is None or not runtime.alive(backend):
        if everything:
            # workers outlive a backend: only a backend can find and end them
            backend = runtime.ensure_running(home)
        else:
            return Ended("No backend is running.", None)
    if not sure and not _agreed(everything):
        raise errors.UsageProblem("Nothing was ended.", "")
    _post(backend, everything)
    deadline = time.monotonic() + END_S
    while runtime.alive(backend):
        if time.monotonic() > deadline:
            raise errors.BackendDown(
                f"The backend (pid {backend.pid}) has not ended within {END_S:.0f} s.",
                f"Look into {home.backend_log}, or end it with: kill {backend.pid}",
            )
        time.sleep(0.02)
    rest = "and all workers have ended" if everything else "has ended; workers run on"
    return Ended(f"The backend (pid {backend.pid}) {rest}.", backend.pid)


def _agreed(everything: bool) -> bool:
    """Ask on a terminal; without one, `--all` needs `--yes`."""
    if not sys.stdin.isatty():
        if everything:
            raise errors.UsageProblem(
                "shutdown --all stops every worker, and there is no terminal to ask on.",
                "Add --yes.",
            )
        return True
    question = "End the backend and stop all workers?" if everything else "End the backend?"
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _post(backend: runtime.Backend, everything: bool) -> None:
    request = urllib.request.Request(
        backend.url + "/nbgpu/v1/shutdown",
        data=json.dumps({"all": everything}).encode(),
        headers={"Authorization": f"Bearer {backend.token}", "Content-Type": "application/json"},
        method="POST",
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=END_S):
            pass
    except urllib.error.HTTPError as error:
        raise errors.ServiceError(
            f"The backend (pid {backend.pid}) refused to end: {error}.",
            f"End it with: kill {backend.pid}",
            status_code=error.code,
        ) from None
    except OSError as error:
        if runtime.alive(backend):
            raise errors.BackendDown(
                f"The backend (pid {backend.pid}) does not answer: {error}.",
                f"End it with: kill {backend.pid}",
            ) from None
