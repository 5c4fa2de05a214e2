"""The kernel's process: `python launch.py AGENT_PID BOUND_FD CONNECTION_FILE WORKSPACE`.

It is started in the run folder, since the path of a socket has 107 bytes at most; binds; goes to the
workspace; and says on BOUND_FD that it can be connected to. It dies with the agent.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HOLD = 10_000  # messages for a client that is slower than the kernel; 1,000 by default
BIND_S = 20.0
HEARTBEAT = "k-5"


def private_modules() -> Any:
    """Import what is ours and hide it: a pod's own `parcel` is another one. -> the module `inside`"""
    if TYPE_CHECKING:
        from nbgpu_backend.pod import inside
    else:
        import inside
    for name in ("inside", "parcel", "children"):
        sys.modules["_nbgpu_" + name] = sys.modules.pop(name)
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != here]
    return inside


def home_for_ipython() -> None:
    """A home that cannot be written to (read-only, or full) must not keep the kernel from starting."""
    folder = os.environ.get("IPYTHONDIR") or os.path.join(os.path.expanduser("~"), ".ipython")
    probe = os.path.join(folder, ".probe-%d" % os.getpid())
    try:
        os.makedirs(os.path.join(folder, "profile_default"), exist_ok=True)
        with open(probe, "wb") as file:
            file.write(b"x" * 4096)
        os.unlink(probe)
    except OSError:
        import tempfile

        try:
            os.unlink(probe)
        except OSError:
            pass
        os.environ["IPYTHONDIR"] = tempfile.mkdtemp(prefix="ipython-")


def leftover(shell: Any, record: logging.LogRecord) -> bool:
    """What asyncio says of ipykernel's own tasks when it ends would be printed under a cell."""
    ending = getattr(shell, "exit_now", False)
    return bool(ending) and "was destroyed but it is pending" in record.getMessage()


def main() -> None:
    agent, bound, connection, workspace = sys.argv[1:5]
    # an interrupt before the kernel handles it would end it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    inside = private_modules()
    inside.die_with_parent(int(agent))
    home_for_ipython()
    run = os.getcwd()
    import zmq
    from ipykernel.kernelapp import IPKernelApp

    class PodKernelApp(IPKernelApp):
        """Binds here, works there."""

        def init_iopub(self, context: Any) -> None:
            context.setsockopt(zmq.SNDHWM, HOLD)
            super().init_iopub(context)  # type: ignore[no-untyped-call]
            context.setsockopt(zmq.SNDHWM, 1000)

        def init_heartbeat(self) -> None:
            super().init_heartbeat()  # type: ignore[no-untyped-call]
            end = time.monotonic() + BIND_S
            while not os.path.exists(HEARTBEAT):  # a thread binds it
                if time.monotonic() > end:
                    raise TimeoutError("the heartbeat's socket was not bound")
                time.sleep(0.001)
            # sockets are removed by their relative names at the end
            atexit.register(os.chdir, run)
            os.chdir(workspace)
            os.write(int(bound), b"x")
            os.close(int(bound))

    sys.argv[1:] = []
    # no parent to poll: the system tells. No history file: on a full or read-only disk sqlite waits.
    app = PodKernelApp.instance(parent_handle=1)
    app.initialize(["-f", connection, "--HistoryManager.hist_file=:memory:"])
    inside.shell = app.shell
    logging.getLogger("asyncio").addFilter(lambda record: not leftover(app.shell, record))
    app.start()


if __name__ == "__main__":
    main()
