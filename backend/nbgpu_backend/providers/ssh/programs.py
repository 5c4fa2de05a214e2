"""Our programs on a host: each runs for a moment beside host.py, takes one JSON object, tells JSON lines."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from nbgpu_backend import errors
from nbgpu_backend.errors import NbgpuError, UpstreamError
from nbgpu_backend.providers.ssh.link import Link

LONG_S = 60.0  # patience with a link, where a person waits for something long anyway

Json = dict[str, Any]


async def lines(link: Link, program: str, request: Mapping[str, Any]) -> AsyncGenerator[Json, None]:
    """Its lines but for an error, which is raised. Closing the generator ends all that it has started."""
    facts = await link.call({"op": "hello", "tools": False}, patience_s=LONG_S)
    argv = [facts["executable"], f"{facts['code']}/{program}"]
    run = {"op": "run", "argv": argv, "stdin": json.dumps(request)}
    last = ""
    async with aclosing(link.stream(run, patience_s=LONG_S)) as said:
        async for line in said:
            if line.get("stream") == 1:
                value: Json = json.loads(line["line"])
                if value["kind"] == "error":
                    kind: type[NbgpuError] = getattr(errors, value["error"])
                    code = value.get("code") or "environment"
                    raise kind(value["what"], value.get("next", ""), code=code)
                yield value
            elif "line" in line:
                last = line["line"]
            elif line.get("code") or line.get("signal"):
                said_last = last.strip().rstrip(".") or "it was ended"
                raise UpstreamError(f"{program} failed on {link.name}: {said_last}.", "Try again.")
