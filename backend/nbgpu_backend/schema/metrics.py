"""`/nbgpu/v1/metrics/…`: records as columns, so that a frame is one call away."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from nbgpu_backend.schema.common import Micros, Model


class Columns(Model):
    """A table: `columns[name]` is a list of `rows` values, in the order of time."""

    rows: int
    columns: dict[str, list[Any]]
    truncated: bool = Field(False, description="older rows were left out")


class CostSeries(Model):
    """Dollars by share over time, cumulated from `since_us`.

    Shares are an allocation: an interval's amount is split by the time that its worker spent starting,
    busy and idle, each second at the interval's rate.
    """

    since_us: Micros
    until_us: Micros
    at_us: list[int]
    start: list[float]
    busy: list[float]
    idle: list[float]
    total: str
    rate_source: str
