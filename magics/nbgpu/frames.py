"""Columns of the backend as pandas frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas

if TYPE_CHECKING:
    from nbgpu_backend.schema.metrics import Columns

AMOUNTS = ("cost", "amount", "rate_per_hour")


def frame(table: Columns) -> pandas.DataFrame:
    """`arrived_us` becomes `arrived` (UTC); amounts of decimal text become floats, in dollars."""
    found = pandas.DataFrame(table.columns)
    for name in list(found.columns):
        if name.endswith("_us"):
            instants = pandas.to_datetime(found[name].astype("Int64"), unit="us", utc=True)
            found[name] = instants
            found = found.rename(columns={name: name.removesuffix("_us")})
        elif name in AMOUNTS:
            found[name] = pandas.to_numeric(found[name])
    return found
