"""`output`: the spool to one client, from any number on."""

from __future__ import annotations

import asyncio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Tuple

    from nbgpu_backend.pod.files import whole
    from nbgpu_backend.pod.messages import dump
    from nbgpu_backend.pod.runs import Run, Runs
    from nbgpu_backend.pod.spool import Reader, Spool, belongs, ends_run, make_line
    from nbgpu_backend.pod.wire import Refusal, Wire

    Json = Dict[str, Any]
else:
    from files import whole
    from messages import dump
    from spool import Reader, belongs, ends_run, make_line
    from wire import Refusal

QUIET_S = 10.0


async def output(wire: Wire, request: Json, spool: Spool, runs: Runs) -> None:
    """Returns when the client is to be closed on."""
    since, name, follow = (
        whole(request, "since", 0),
        request.get("run"),
        request.get("follow", True),
    )
    run = None
    if name is not None:
        run = runs.get(name) if isinstance(name, str) else None
        if run is None:
            raise Refusal("not_found", "there is no run %s" % name)
        before = spool.seq if run.state == "queued" else run.n - 1
        since = max(since, before)
    if not follow:
        spool.flush()
    reader = Reader(spool, since)
    try:
        while True:
            over = run is not None and run.ended and not spool.waits
            data = reader.read()
            if data:
                await asyncio.sleep(0)  # others have their turn, though this client reads fast
                if run is not None:
                    data, ended = only(data, run)
                    await wire.send(data)
                    if ended:
                        return
                else:
                    await wire.send(data)
            elif over and run is not None:
                if run.end_n > since:  # a full disk did not take its end
                    await wire.send(last_line(run, max(run.end_n, reader.last + 1)))
                return
            elif not follow:
                return
            elif not await spool.wait(QUIET_S):
                await wire.send(b"\n")
    finally:
        reader.close()


def only(data: bytes, run: Run) -> Tuple[bytes, bool]:
    """The lines of a run, and of gaps. -> (these, whether the run ends with them)"""
    name = run.id.encode()
    found: List[bytes] = []
    if name not in data and b',"type":"gap",' not in data:
        return b"", False
    for line in data.splitlines(True):
        if belongs(line, name):
            found.append(line)
            if ends_run(line):
                return b"".join(found), True
        elif belongs(line, b"") and b',"type":"gap",' in line[:200]:
            found.append(line)
    return b"".join(found), False


def last_line(run: Run, n: int) -> bytes:
    content = dump({"status": run.state, "seconds": run.seconds})
    return make_line(n, run.id, "run_ended", content, b"{}", b"[]")
