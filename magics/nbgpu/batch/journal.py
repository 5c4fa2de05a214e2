"""What is known of each row of a map, on disk: how an interrupted map goes on.

One JSON object a line, appended and never rewritten:

    {"map": 1, "endpoint": …, "of": …}                what it is a journal of
    {"row": 3, "key": …, "at": µs}                    its input is about to be submitted
    {"row": 3, "job": id}                             it was accepted
    {"row": 3, "end": state, "output": …, "error": …, "delay_ms": …, "execution_ms": …}
    {"row": 3, "cost": "0.0012"}                      dollars
    {"row": 3, "void": true}                          its job is gone: as if it had not been submitted

A line is handed to the system at once, so that it outlives the process. A last line that a kill cut short
is skipped. Who writes holds a lock on the file.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from nbgpu_backend import runtime

from nbgpu import errors

VERSION = 1
KEPT_DAYS = 30  # journals in the user's folder that nobody has touched


@dataclass(slots=True)
class Entry:
    """A row. Neither job nor end: whether it was accepted is unknown."""

    key: str
    at_us: int
    job: str | None = None
    end: str | None = None
    output: Any = None
    error: str | None = None
    delay_ms: int | None = None
    execution_ms: int | None = None
    cost: str | None = None


def apply(entries: dict[int, Entry], line: dict[str, Any]) -> None:
    """Take in one line. Pure but for `entries`."""
    number = line["row"]
    if "key" in line:
        entries[number] = Entry(line["key"], line["at"])
        return
    entry = entries.get(number)
    if entry is None:
        return
    if "job" in line:
        entry.job = line["job"]
    elif "end" in line:
        entry.end, entry.output, entry.error = line["end"], line.get("output"), line.get("error")
        entry.delay_ms, entry.execution_ms = line.get("delay_ms"), line.get("execution_ms")
    elif "cost" in line:
        entry.cost = line["cost"]
    elif line.get("void"):
        del entries[number]


def read(path: Path) -> tuple[dict[str, Any] | None, dict[int, Entry]]:
    """The first line and the rows. (None, {}) for a file that is none or holds no journal."""
    entries: dict[int, Entry] = {}
    head: dict[str, Any] | None = None
    for line in _lines(path):
        if "map" in line:
            head = line
        elif "row" in line:
            try:
                apply(entries, line)
            except (KeyError, TypeError):
                continue
    return head, entries


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for text in file:
                try:
                    line = json.loads(text)
                except ValueError:  # cut short
                    continue
                if isinstance(line, dict):
                    yield line
    except FileNotFoundError:
        return


class Journal:
    """`entries` are the rows by number. Methods may be called from any thread."""

    def __init__(self, path: Path, entries: dict[int, Entry], file: TextIO, lock: int) -> None:
        self.path = path
        self.entries = entries
        self._file = file
        self._lock = lock
        self._guard = threading.Lock()

    @classmethod
    def open(cls, path: Path, endpoint: str, of: str, *, fresh: bool = False) -> Journal:
        """Raises UsageProblem where it is the journal of something else, Conflict where another map
        writes it, OneLine where it cannot be written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = runtime.lock(path, wait=False)
        except OSError as error:
            raise errors.UsageProblem(
                f"{path} cannot be written: {error.strerror}.", "Name another place with out=…"
            ) from None
        if lock is None:
            raise errors.Conflict(
                "Another run of this map is under way, in another kernel or thread.",
                f"Wait for it, or interrupt it there. Its journal is {path}", status_code=409,
            )  # fmt: skip
        try:
            if fresh:
                os.truncate(path, 0)
            head, entries = read(path)
            if head is not None and (head.get("endpoint"), head.get("of")) != (endpoint, of):
                theirs = head.get("endpoint")
                what = (
                    f"of the endpoint {theirs}"
                    if theirs != endpoint
                    else "of another version of it"
                )
                raise errors.UsageProblem(
                    f"{path.name} holds results {what}: its model, code or options were others.",
                    "Keep them and name another out=…, or run all rows again with fresh=True.",
                )
            file = path.open("a", encoding="utf-8")
            if file.tell() and not _ends(path):
                file.write("\n")
        except BaseException:
            os.close(lock)
            raise
        found = cls(path, entries, file, lock)
        if head is None:
            found._write({"map": VERSION, "endpoint": endpoint, "of": of, "begun": _now_us()})
        return found

    def intend(self, number: int, key: str) -> None:
        self._add({"row": number, "key": key, "at": _now_us()})

    def accepted(self, number: int, job: str) -> None:
        self._add({"row": number, "job": job})

    def ended(
        self,
        number: int,
        state: str,
        *,
        output: Any = None,
        error: str | None = None,
        delay_ms: int | None = None,
        execution_ms: int | None = None,
    ) -> None:
        line = {"row": number, "end": state, "output": output, "error": error,
                "delay_ms": delay_ms, "execution_ms": execution_ms}  # fmt: skip
        self._add({name: value for name, value in line.items() if value is not None})

    def cost(self, number: int, dollars: str) -> None:
        self._add({"row": number, "cost": dollars})

    def void(self, number: int) -> None:
        self._add({"row": number, "void": True})

    def _add(self, line: dict[str, Any]) -> None:
        self._write(line)
        apply(self.entries, line)

    def _write(self, line: dict[str, Any]) -> None:
        text = json.dumps(line, separators=(",", ":")) + "\n"
        with self._guard:
            if self._file.closed:  # a thread that was not waited for: the next run finds its job
                return
            try:
                self._file.write(text)
                self._file.flush()
            except OSError as error:
                raise errors.BatchStopped(
                    f"{self.path} cannot be written: {error.strerror}.",
                    "Free some space, then run this again: it goes on.",
                ) from None

    def close(self) -> None:
        with self._guard:
            self._file.close()
        os.close(self._lock)


def _ends(path: Path) -> bool:
    """Does it end with a whole line?"""
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _now_us() -> int:
    return time.time_ns() // 1000


def tidy(folder: Path) -> None:
    """Remove journals that nobody has touched for KEPT_DAYS."""
    oldest = time.time() - KEPT_DAYS * 86400
    for path in folder.glob("*.jsonl"):
        try:
            if path.stat().st_mtime < oldest:
                path.unlink()
        except OSError:
            continue
