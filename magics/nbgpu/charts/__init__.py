"""Pictures of what was measured, drawn with matplotlib and without pyplot.

    chart.py     Chart: a figure that a notebook shows once, with `.df` and a summary in text
    look.py      colours (Okabe and Ito) and the look of axes, on white and on dark alike
    latency.py   where the time of requests went
    cost.py      dollars over time, by what the workers did
    timeline.py  records as counts over time
    workers.py   workers by state over time, above the requests that they were there for
    coldstart.py what cold starts are made of, by tier

`draw` fetches the measurements and draws one of them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from nbgpu.verbs.call import Call, part

if TYPE_CHECKING:
    from nbgpu_backend.schema.endpoints import Endpoint

    from nbgpu.charts.chart import Chart
    from nbgpu.client import Client

LONGEST_S = 3600  # a request that arrived so long ago may still have been there


def draw(client: Client, kind: str, *, endpoint: str | None, since_s: int | None) -> Chart:
    """`kind` is latency, cost, workers or coldstart. Raises NotFound for an endpoint that there is none of."""
    since_us = None if since_s is None else time.time_ns() // 1000 - since_s * 1_000_000
    found = None
    if endpoint is not None:
        path = f"/v2/serverless/{part(endpoint)}"
        found = client.send(Call("GET", path, "Endpoint", about=endpoint))
    if kind == "latency":
        from nbgpu.charts.latency import latency

        return latency(client.frame("requests", endpoint, since_us), endpoint)
    if kind == "coldstart":
        from nbgpu.charts.coldstart import coldstart

        return coldstart(client.frame("requests", endpoint, since_us), endpoint, found)
    if kind == "workers":
        return _workers(client, endpoint, found, since_us)
    from nbgpu.charts.cost import cost

    params: dict[str, str | int | list[str]] = {} if endpoint is None else {"endpoint": endpoint}
    if since_us is not None:
        params["since_us"] = since_us
    series = client.send(Call("GET", "/nbgpu/v1/metrics/cost", "CostSeries", params=params))
    settings = client.send(Call("GET", "/nbgpu/v1/settings", "Settings"))
    place = found.nbgpu.place.on if found is not None else "local"
    return cost(series, endpoint, settings.rates.get(place, "0"), place)


def _workers(
    client: Client, endpoint: str | None, found: Endpoint | None, since_us: int | None
) -> Chart:
    import pandas

    from nbgpu.charts.workers import workers

    # a state that lasts was recorded when it began, which may be long ago
    changes = client.frame("workers", endpoint)
    earlier = None if since_us is None else max(0, since_us - LONGEST_S * 1_000_000)
    requests = client.frame("requests", endpoint, earlier)
    now = pandas.Timestamp(time.time_ns(), tz="UTC")
    since = None if since_us is None else pandas.Timestamp(since_us, unit="us", tz="UTC")
    return workers(changes, requests, now, endpoint=endpoint, found=found, since=since)
