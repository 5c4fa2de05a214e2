"""The child process that makes a pod's room (see children.py).

{"home", "requirements", "venv": the folder of the pod's own, "inside": what the pod calls it}
-> {"kind": "progress", "text"} …, {"kind": "done"}
-> {"kind": "error", "error", "code", "what", "next"}     in place of the last line
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from nbgpu_backend.childside import printer, request
from nbgpu_backend.errors import DiskError, NbgpuError
from nbgpu_backend.home import Home
from nbgpu_backend.providers.local.pod_environment import install, own


def main() -> None:
    asked, say = request(), printer()
    try:
        shared = install(
            Home(Path(asked["home"])),
            asked["requirements"],
            lambda text: say({"kind": "progress", "text": text}),
        )
        own(shared, Path(asked["venv"]), asked["inside"])
        say({"kind": "done"})
    except Exception as error:
        known = error if isinstance(error, NbgpuError) else None
        if isinstance(error, OSError):
            known = DiskError(
                f"The pod's folder cannot be written: {error.strerror or error}.",
                "Free some space on its disk.",
            )
        say(
            {
                "kind": "error",
                "error": type(known or NbgpuError("")).__name__,
                "code": known.code if known else "internal",
                "what": known.what if known else f"{type(error).__name__}: {error}",
                "next": known.next_step if known else "Try again.",
            }
        )
    sys.stdout.flush()
    os._exit(0)  # the thread that watches the parent is in a read


if __name__ == "__main__":
    main()
