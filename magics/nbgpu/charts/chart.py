"""A figure that shows itself once."""

from __future__ import annotations

import base64
import io
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


class Chart:
    """`.figure` is matplotlib's, `.df` what it shows, `str(chart)` a summary in text."""

    def __init__(self, figure: Figure, df: pandas.DataFrame, summary: str) -> None:
        self.figure = figure
        self.df = df
        self.summary = summary

    @cached_property
    def png(self) -> bytes:
        buffer = io.BytesIO()
        FigureCanvasAgg(self.figure).print_png(buffer)
        return buffer.getvalue()

    def save(self, path: str | Path) -> None:
        """Write the picture as a PNG with a transparent ground."""
        Path(path).expanduser().write_bytes(self.png)

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        width, height = (side * self.figure.dpi / 2 for side in self.figure.get_size_inches())
        data = {"image/png": base64.b64encode(self.png).decode(), "text/plain": self.summary}
        shape = {"width": round(width), "height": round(height), "alt": self.summary}
        return data, {"image/png": shape}

    def text(self) -> str:
        return self.summary

    def __repr__(self) -> str:
        return self.summary

    def to_dict(self) -> dict[str, Any]:
        rows = json.loads(self.df.to_json(orient="records", date_format="iso"))
        return {"summary": self.summary, "rows": rows}
