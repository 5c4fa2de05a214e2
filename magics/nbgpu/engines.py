"""Engines and their environments: what is installed, and installing (as a child process)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from nbgpu_backend.runtime import Home

from nbgpu import errors
from nbgpu.results.shape import Rich, frame, html_table, text_table
from nbgpu.verbs.call import Context

INSTALLERS = {"vllm": "nbgpu_backend.engines.vllm.installer"}
COLUMNS = ("engine", "version", "state", "where")


class EngineListing(Rich):
    """What can serve a model here."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def _cells(self) -> list[list[object]]:
        return [[row[column] for column in COLUMNS] for row in self.rows]

    def text(self) -> str:
        return text_table(COLUMNS, self._cells())

    def html(self) -> str:
        return html_table(COLUMNS, self._cells())

    @property
    def df(self) -> Any:
        return frame(self.rows, COLUMNS)

    def to_dict(self) -> dict[str, Any]:
        return {"engines": self.rows}


def listing(home: Home | None = None) -> EngineListing:
    """A folder with the file `.complete` in it is an installed engine; engine.json describes it."""
    folder = (home or Home.default()).engines
    rows = []
    for place in sorted(folder.glob("vllm*")) if folder.is_dir() else []:
        if not place.is_dir():
            continue
        complete = (place / ".complete").is_file()
        try:
            version = str(json.loads((place / "engine.json").read_text()).get("version", ""))
        except (OSError, ValueError):
            version = ""
        state = "installed" if complete else "unfinished: nbgpu engine add vllm"
        rows.append({"engine": "vllm", "version": version, "state": state, "where": str(place)})
    if not rows:
        rows.append({"engine": "vllm", "version": "", "where": "",
                     "state": "not installed: nbgpu engine add vllm"})  # fmt: skip
    rows.append({"engine": "handler", "version": "", "where": "",
                 "state": "always there: a Python file; its environment comes with the deploy"})  # fmt: skip
    rows.append({"engine": "command", "version": "", "where": "",
                 "state": "always there: any server that speaks OpenAI's API"})  # fmt: skip
    return EngineListing(rows)


def add(context: Context, name: str | None) -> EngineListing:
    """Run the installer of this interpreter and pass its lines on."""
    if name not in INSTALLERS:
        raise errors.UsageProblem(
            "Which engine?" if name is None else f"There is no engine {name} to install.",
            f"There is: {', '.join(INSTALLERS)}.",
        )
    tail: list[str] = []
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", INSTALLERS[name]], env=environment, text=True, errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        try:
            for line in child.stdout:
                tail = [*tail[-4:], line.strip()]
                context.say(line.rstrip())
        except KeyboardInterrupt:
            child.terminate()
            raise errors.Interrupted(
                f"interrupted; run it again to go on installing {name}."
            ) from None
    if child.returncode:
        last = next((line for line in reversed(tail) if line), "it said nothing.")
        raise errors.ServiceError(
            f"{name} was not installed: {last.removeprefix('error: ')}", code="engine_install"
        )
    return listing()
