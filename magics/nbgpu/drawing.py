"""The live line as a widget: a bar and its text that move without a new output each time.

A kernel cannot know whether its front end draws widgets, and while a cell runs it hears nothing from it.
So the widget goes out in one bundle with the HTML that stands in for it where none is drawn, and the
bundle again now and then, so that this HTML is never much older than a third of the wait. Nobody is there
to look where nobody could be asked for input (nbclient, papermill): then there is no widget at all.

It is closed with its parts before the cell ends: no state of it is left to be saved.
"""

from __future__ import annotations

import time
from html import escape
from typing import Any

VIEW = "application/vnd.jupyter.widget-view+json"


class Drawing:
    """Raises ImportError without ipywidgets."""

    def __init__(self) -> None:
        from ipywidgets import HTML, FloatProgress, HBox, Layout

        self._bar = FloatProgress(max=1.0, layout=Layout(width="12em", flex="none"))
        self._text = HTML()
        self._box = HBox([self._bar, self._text], layout=Layout(align_items="center"))
        self._began = time.monotonic()
        self._due = 0.0

    @property
    def view(self) -> dict[str, Any]:
        """For the bundle that holds the HTML, too."""
        return {VIEW: {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}}

    def update(self, text: str, share: float | None) -> bool:
        """True: the bundle is to be shown again."""
        self._text.value = f'<span style="opacity:.75">{escape(text)}</span>'
        self._bar.layout.display = "none" if share is None else None
        self._bar.value = share or 0.0
        age = time.monotonic() - self._began
        if age < self._due:
            return False
        self._due = 1.0 + age * 1.5
        return True

    def close(self) -> None:
        for widget in (self._box, self._bar, self._text):
            for part in (widget.layout, getattr(widget, "style", None), widget):
                if part is not None:
                    part.close()


def drawing(kernel: Any) -> Drawing | None:
    if not getattr(kernel, "_allow_stdin", False):
        return None
    try:
        return Drawing()
    except ImportError:
        return None
