"""The cells that the kernel was given, by whomever. Newest 200 are told, some more are remembered.

Every change is a line of `run/runs.ndjson`, so that a new agent knows what the one before it ran.
"""

from __future__ import annotations

import collections
import hashlib
import json
import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

    from nbgpu_backend.pod.messages import dump
    from nbgpu_backend.pod.spool import Spool, log, now_us

    Json = Dict[str, Any]
else:
    from messages import dump
    from spool import log, now_us

TOLD = 200
KEPT = 2000
LINES_LIMIT = 20_000
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
ENDED = ("ok", "error", "interrupted", "aborted", "died")
STORED = ("state", "asked_us", "began_us", "ended_us", "end_n")
FIELDS = ("id", "n", "label", "state", "asked_us", "began_us", "ended_us", "by")


class Run:
    """`message` is the id of its execute_request, `failed` the name of the error it showed, `reply`
    its state by the kernel's answer, `idle` whether the kernel is done with it, `doomed` that the kernel is
    being ended under it."""

    def __init__(self, name: str, message: str, label: str, by: str, n: int) -> None:
        self.id, self.message, self.label, self.by, self.n = name, message, label, by, n
        self.state = "queued"
        self.asked_us = now_us()
        self.began_us: Optional[int] = None
        self.ended_us: Optional[int] = None
        self.failed = self.reply = ""
        self.idle = self.interrupted = self.sent = self.doomed = False
        self.asking: Optional[Json] = None  # the header of an input request that waits
        self.end_n = 0  # the number of its end
        self.code = ""  # until it is sent
        self.store_history = True

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def seconds(self) -> float:
        """It ran for so long."""
        return ((self.ended_us or 0) - (self.began_us or self.ended_us or 0)) / 1e6

    def public(self) -> Json:
        return {name: getattr(self, name) for name in FIELDS}


class Runs:
    def __init__(self, path: str, spool: Spool) -> None:
        self.path, self.spool = path, spool
        self.by_id: collections.OrderedDict[str, Run] = collections.OrderedDict()
        self.by_message: Dict[str, Run] = {}
        self.open: Dict[str, Run] = {}  # those that have not ended
        self.lines = 0
        self.broken = False
        self.load()

    def load(self) -> None:
        try:
            with open(self.path, "rb") as file:
                lines = file.read().splitlines()
        except OSError:
            return
        for line in lines:
            try:
                value = json.loads(line.decode("utf-8"))
                run = Run(value["id"], value["message"], value["label"], value["by"], value["n"])
                for name in STORED:
                    setattr(run, name, value[name])
            except (ValueError, KeyError, TypeError):
                continue  # a torn line
            self.by_id.pop(run.id, None)
            self.remember(run)
        for run in list(self.by_id.values()):
            if not run.ended:
                self.open[run.id] = run
                self.end(run, "died")
        self.rewrite()

    def remember(self, run: Run) -> None:
        self.by_id[run.id] = self.by_message[run.message] = run
        while len(self.by_id) > KEPT:
            old = next(iter(self.by_id.values()))
            if not old.ended:
                break
            del self.by_id[old.id]
            self.by_message.pop(old.message, None)

    def rewrite(self) -> None:
        temporary = self.path + ".tmp"
        try:
            with open(temporary, "wb") as file:
                for run in self.by_id.values():
                    file.write(self.line(run))
            os.rename(temporary, self.path)
        except OSError as error:
            self.complain(error)
        self.lines = len(self.by_id)

    def line(self, run: Run) -> bytes:
        return dump(dict(run.public(), message=run.message, end_n=run.end_n)) + b"\n"

    def note(self, run: Run) -> None:
        self.lines += 1
        if self.lines > LINES_LIMIT:
            self.rewrite()
            return
        try:
            with open(self.path, "ab") as file:
                file.write(b"\n" * self.broken + self.line(run))  # a part may have been written
            self.broken = False
        except OSError as error:
            self.complain(error)

    def complain(self, error: OSError) -> None:
        if not self.broken:
            self.broken = True
            log("%s cannot be written: %s" % (self.path, error.strerror))

    # what is asked

    def get(self, name: str) -> Optional[Run]:
        return self.by_id.get(name)

    def last(self) -> Optional[Run]:
        return next(reversed(self.by_id.values()), None) if self.by_id else None

    def listed(self) -> List[Json]:
        newest = []
        for run in reversed(self.by_id.values()):
            newest.append(run.public())
            if len(newest) == TOLD:
                break
        return newest[::-1]

    # what happens

    def ask(self, name: str, label: str, by: str) -> Run:
        """A run of our own, which waits for the kernel. Its message has its name."""
        run = Run(name, name, label, by, self.spool.seq + 1)
        self.open[run.id] = run
        self.remember(run)
        self.note(run)
        return run

    def of_notebook(self, message: str) -> Run:
        """The run of an execute_request that somebody else sent."""
        name = "cell-" + re.sub("[^A-Za-z0-9_-]", "_", message)[:12]
        if name in self.by_id:  # some clients begin all their ids alike
            name = "cell-" + hashlib.sha256(message.encode("utf-8", "replace")).hexdigest()[:12]
        run = Run(name, message, "", "notebook", self.spool.seq + 1)
        self.open[run.id] = run
        self.by_id.pop(run.id, None)
        self.remember(run)
        self.begin(run)
        return run

    def begin(self, run: Run) -> None:
        if run.state != "queued":
            return
        run.state, run.began_us = "running", now_us()
        content = {"label": run.label, "by": run.by}
        run.n = self.spool.add(run.id, "run_started", dump(content))
        self.note(run)

    def end(self, run: Run, state: str) -> None:
        if run.ended:
            return
        run.state, run.ended_us, run.asking = state, now_us(), None
        run.code = ""
        self.open.pop(run.id, None)
        content = {"status": state, "seconds": run.seconds}
        run.end_n = self.spool.add(run.id, "run_ended", dump(content))
        self.note(run)

    def settle(self, run: Run) -> None:
        """End a run that the kernel is done with, by what it said."""
        if run.doomed:
            state = "died"
        elif run.reply and run.reply != "error":
            state = run.reply
        elif run.failed or run.reply == "error":
            stopped = run.failed == "KeyboardInterrupt" or run.interrupted
            state = "interrupted" if stopped else "error"
        else:
            state = "ok"
        self.end(run, state)
