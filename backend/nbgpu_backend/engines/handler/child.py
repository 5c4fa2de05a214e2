"""The child process that looks at handlers and builds their environments (see children.py).

    {"do": "look", "file", "cwd", "home"}
    -> {"kind": "handler", "path", "revision", "bytes", "environment", "ready"}
    {"do": "build", "path", "home"}
    -> {"kind": "progress", "text"} …, {"kind": "done", "environment"}
    -> {"kind": "error", "error", "code", "what", "next"}     in place of the last line

`file` is as typed, `path` absolute; `error` is the name of a class in errors.py.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from nbgpu_backend.childside import Say, printer, request
from nbgpu_backend.engines.handler import folder, requirements
from nbgpu_backend.engines.handler.environment import Environment
from nbgpu_backend.errors import NbgpuError
from nbgpu_backend.home import Home


def look(asked: dict[str, Any], say: Say) -> None:
    file = folder.find(asked["file"], Path(asked["cwd"]))
    wanted = requirements.read(file.parent)
    place = Environment.of(Home(Path(asked["home"])), wanted)
    folder.check(file, place.facts().get("modules", ()))
    code = folder.revision(file, wanted)
    say(
        {
            "kind": "handler",
            "path": str(file),
            "revision": code.revision,
            "bytes": code.bytes,
            "environment": str(place.folder),
            "ready": place.complete,
        }
    )


def build(asked: dict[str, Any], say: Say) -> None:
    from nbgpu_backend.engines.handler.installer import install

    file = Path(asked["path"])
    wanted = requirements.read(file.parent)
    place = install(
        Home(Path(asked["home"])),
        wanted,
        file.parent,
        lambda text: say({"kind": "progress", "text": text}),
    )
    say({"kind": "done", "environment": str(place.folder)})


def main() -> None:
    asked, say = request(), printer()
    try:
        {"look": look, "build": build}[asked["do"]](asked, say)
    except Exception as error:
        known = error if isinstance(error, NbgpuError) else None
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
