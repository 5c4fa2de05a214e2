"""Pictures of what was measured, drawn with matplotlib and without pyplot.

    chart.py     Chart: a figure that a notebook shows once, with `.df` and a summary in text
    look.py      colours (Okabe and Ito) and the look of axes, on white and on dark alike
    latency.py   where the time of requests went
    cost.py      dollars over time, by what the workers did

`draw` fetches the measurements and draws one of them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from nbgpu.verbs.call import Call, part

if TYPE_CHECKING:
    from nbgpu.charts.chart import Chart
    from nbgpu.client import Client


def draw(client: Client, kind: str, *, endpoint: str | None, since_s: int | None) -> Chart:
    """`kind` is latency or cost. Raises NotFound for an endpoint that there is none of."""
    since_us = None if since_s is None else time.time_ns() // 1000 - since_s * 1_000_000
    found = None
    if endpoint is not None:
        path = f"/v2/serverless/{part(endpoint)}"
        found = client.send(Call("GET", path, "Endpoint", about=endpoint))
    if kind == "latency":
        from nbgpu.charts.latency import latency

        return latency(client.frame("requests", endpoint, since_us), endpoint)
    from nbgpu.charts.cost import cost

    params: dict[str, str | int | list[str]] = {} if endpoint is None else {"endpoint": endpoint}
    if since_us is not None:
        params["since_us"] = since_us
    series = client.send(Call("GET", "/nbgpu/v1/metrics/cost", "CostSeries", params=params))
    settings = client.send(Call("GET", "/nbgpu/v1/settings", "Settings"))
    place = found.nbgpu.place.on if found is not None else "local"
    return cost(series, endpoint, settings.rates.get(place, "0"), place)
