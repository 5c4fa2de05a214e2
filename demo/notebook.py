"""Execute a notebook for real, as nbconvert would, and keep it with its outputs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter

CELL_TIMEOUT_S = 900


@dataclass(slots=True)
class Executed:
    """`began[i]` is when code cell i was sent to the kernel, in Unix seconds."""

    notebook: Path
    html: Path
    sources: list[str] = field(default_factory=list)
    began: list[float] = field(default_factory=list)

    def began_first(self, start: str) -> float:
        """When the first cell that starts so was sent."""
        return next(t for s, t in zip(self.sources, self.began, strict=True) if s.startswith(start))


def execute(source: Path, folder: Path, report: Callable[[str], None]) -> Executed:
    """Run `source`; leave NAME.ipynb and NAME.html in `folder`, also when a cell fails.

    Raises nbclient.exceptions.CellExecutionError.
    """
    folder.mkdir(exist_ok=True)
    notebook = nbformat.read(source, as_version=4)
    done = Executed(folder / source.name, folder / f"{source.stem}.html")

    def before(cell: nbformat.NotebookNode, cell_index: int) -> None:
        if cell.cell_type == "code":
            done.sources.append(cell.source)
            done.began.append(time.time())
            report(cell.source.splitlines()[0])

    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(source.parent)}},
        on_cell_start=before,
        extra_arguments=["--IPKernelApp.log_level=40"],
    )
    try:
        client.execute()
    finally:
        nbformat.write(notebook, done.notebook)
        html, _ = HTMLExporter().from_notebook_node(notebook)
        done.html.write_text(html)
    return done
