"""The entry of a pod in a container: `python3 contained.py`, in the image's Python.

One JSON line on its standard input says what to become: {"argv", "env": to be added, "path": folders for the
front of PATH}. The end of that input is the end of the pod: the agent watches it (NBGPU_AGENT's `tether`).
"""

from __future__ import annotations

import json
import os
import signal


def first_line(fd: int) -> bytes:
    """Nothing behind it is read, for somebody else will. b"" where it ends before."""
    line = b""
    while not line.endswith(b"\n"):
        more = os.read(fd, 1)
        if not more:
            return b""
        line += more
    return line


def main() -> None:
    # the first process of a container does not get what it has no handler for
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    line = first_line(0)
    if line:
        asked = json.loads(line.decode())
        env = dict(os.environ, **asked["env"])
        env["PATH"] = os.pathsep.join([*asked["path"], os.environ.get("PATH", os.defpath)])
        os.execve(asked["argv"][0], asked["argv"], env)


if __name__ == "__main__":
    main()
