"""Verbs about how many workers there are: scale and warm."""

from __future__ import annotations

from typing import Annotated, Any

from nbgpu.errors import UsageProblem
from nbgpu.verbs import knobs
from nbgpu.verbs.call import Call, part, verb
from nbgpu.verbs.endpoints import Name
from nbgpu.verbs.spec import Arg

WARM_S = 1800


@verb(
    "scale chat --workers 4",
    "scale chat --always-on 1 --idle 5m",
    "scale chat --workers 8 --per-worker 4",
)
def scale(
    name: Name,
    *,
    workers: Annotated[int | None, Arg("at most this many workers", metavar="N")] = None,
    always_on: Annotated[
        int | None, Arg("keep this many running, asked or not; 0 for none", metavar="N")
    ] = None,
    idle: Annotated[
        int | None,
        Arg("a worker stops after so long without work", metavar="TIME", kind="duration"),
    ] = None,
    delay: Annotated[
        float | None,
        Arg("add a worker once a request has waited so long", metavar="TIME", kind="fine"),
    ] = None,
    per_worker: Annotated[
        int | None, Arg("as many workers as give each so many requests", metavar="N")
    ] = None,
) -> Call:
    """Change how many workers there may be, and when one is added or stops.

    What is left out stays as it is, and no worker is started anew for it. A later `deploy` of the same
    cell sets its own again: write there what is to last.
    """
    from nbgpu_backend.schema.endpoints import UpdateEndpoint

    body: dict[str, Any] = {}
    if limits := knobs.limits(workers, always_on, idle):
        body["workers"] = limits
    if policy := knobs.scaling(delay, per_worker):
        body["scaling"] = policy
    if not body:
        raise UsageProblem(
            f"Scale {name} to what?",
            f"Write it as in: %gpu scale {name} --workers 4. The others are --always-on, --idle, "
            "--delay and --per-worker.",
        )
    checked = UpdateEndpoint.model_validate(body).model_dump(
        mode="json", by_alias=True, exclude_unset=True
    )
    return Call("PATCH", f"/v2/serverless/{part(name)}", "Endpoint", checked, again=True,
                follow="scale", view="endpoint", about=name)  # fmt: skip


@verb("warm chat", "warm chat --for 2h --workers 2", "warm chat --off")
def warm(
    name: Name,
    *,
    for_: Annotated[
        int | None, Arg("for so long; by default 30m", metavar="TIME", kind="duration")
    ] = None,
    workers: Annotated[
        int | None, Arg("this many workers; by default 1", metavar="N")
    ] = None,
    off: Annotated[bool, Arg("end it: workers stop when idle again")] = False,
) -> Call:  # fmt: skip
    """Start workers before a request comes, and keep them up for a while.

    It returns when they are ready. Interrupted before, it is taken back.
    """
    if off and (for_ is not None or workers is not None):
        raise UsageProblem(
            "--off ends it, whatever was asked for.", f"Write: %gpu warm {name} --off"
        )
    seconds = WARM_S
    if for_ is not None:
        seconds = int(knobs.time("--for", for_, 1, knobs.WEEK_S))
    wanted = 1 if workers is None else knobs.count("--workers", workers, 1, knobs.MOST_WORKERS)
    body = {"seconds": 0} if off else {"seconds": seconds, "workers": wanted}
    return Call("POST", f"/nbgpu/v1/warm/{part(name)}", "Endpoint", body, again=True,
                follow="warm", view="endpoint", about=name)  # fmt: skip
