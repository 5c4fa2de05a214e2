"""Charts of what was measured."""

from __future__ import annotations

from typing import Annotated

from nbgpu.errors import UsageProblem
from nbgpu.verbs.call import Context, verb
from nbgpu.verbs.spec import Arg

KINDS = ("latency", "cost", "workers", "coldstart")


@verb(
    "chart chat latency",
    "chart chat cost --since 1h",
    "chart chat workers --since 15m",
    "chart chat coldstart",
    local=True,
)
def chart(
    context: Context,
    name: Annotated[
        str | None,
        Arg("the endpoint; all of them if left out", metavar="NAME", complete="endpoint"),
    ] = None,
    kind: Annotated[
        str | None,
        Arg("latency, which is the default, cost, workers or coldstart",
            metavar="|".join(KINDS), complete="chart"),
    ] = None,
    *,
    since: Annotated[
        int | None, Arg("only the last so long", metavar="TIME", kind="duration")
    ] = None,
    save: Annotated[str | None, Arg("also write the picture, a PNG", metavar="FILE")] = None,
) -> object:  # fmt: skip
    """Draw where the time went, what it cost, how many workers there were, or what starts are made of.

    latency: each request by part (queue, cold start, first token, rest). cost: dollars over time.
    workers: how many were in which state over time, above the requests that waited and ran; without
    --since the last hour in which there was something. coldstart: each start by phase and tier.
    """
    from nbgpu.charts import draw

    if kind is None or kind not in KINDS:
        # both orders read well: "chart chat latency" and "chart latency chat"
        name, kind = (kind, name) if name in KINDS else (name, kind or "latency")
    if kind not in KINDS:
        raise UsageProblem(f"There is no chart {kind}.", f"There are: {', '.join(KINDS)}.")
    picture = draw(context.client, kind, endpoint=name, since_s=since)
    if save is not None:
        picture.save(save)
        context.say(f"written to {save}")
    return picture
