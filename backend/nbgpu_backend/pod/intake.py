"""What the kernel publishes, on its way to the spool.

The text of a cell that prints much comes in thousands of small messages: these are recognized by
their bytes and joined without being parsed. All other messages are parsed as far as their headers;
content and metadata go to the spool as they came.
"""

from __future__ import annotations

import asyncio
import base64
import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List

    from nbgpu_backend.pod.messages import DELIMITER, dump, split
    from nbgpu_backend.pod.runs import Run, Runs
    from nbgpu_backend.pod.spool import Spool, log

    Json = Dict[str, Any]
else:
    from messages import DELIMITER, dump, split
    from spool import log

# as the two JSON writers in use begin the content
TEXT = {
    b"stream.stdout": (
        b"stdout",
        (b'{"name": "stdout", "text": "', b'{"name":"stdout","text":"'),
    ),
    b"stream.stderr": (
        b"stderr",
        (b'{"name": "stderr", "text": "', b'{"name":"stderr","text":"'),
    ),
}
IGNORED = ("status", "iopub_welcome", "shutdown_reply", "debug_event")
# requests that are somebody's use of the kernel, not a front end's looking after it
USE = (
    "execute_request",
    "complete_request",
    "inspect_request",
    "is_complete_request",
    "comm_open",
    "comm_msg",
    "comm_close",
    "debug_request",
)
PARENTS = 500
ANSWER_S = 2.0  # an answer may come after the "idle", or not at all
OUTPUT_S = 30.0  # and the "idle" after the answer, with all of the output before it


class Intake:
    """`used` is called whenever the kernel begins or ends to work. An event in `quiets` is set once
    the kernel is done with the request of that id."""

    def __init__(self, spool: Spool, runs: Runs, used: Callable[[], None]) -> None:
        self.spool, self.runs, self.used = spool, runs, used
        self.quiets: Dict[str, asyncio.Event] = {}
        self.loop = asyncio.get_running_loop()
        self.busy: Dict[str, None] = {}  # ids of requests that the kernel works on
        self.parents: Dict[bytes, str] = {}  # a raw parent header: its run

    def receive(self, batch: List[List[bytes]]) -> None:
        known, stream = self.parents, self.spool.stream
        for frames in batch:
            text = TEXT.get(frames[0])
            if text is not None and len(frames) == 7 and frames[1] == DELIMITER:
                run = known.get(frames[4])
                content = frames[6]
                if run is not None and content.startswith(text[1]) and content.endswith(b'"}'):
                    body = content[len(text[1][0 if content[8:9] == b" " else 1]) : -2]
                    # every quote inside is escaped, or there are more fields
                    if b'"' not in body or body.count(b'"') == body.count(b'\\"'):
                        stream(run, text[0], body)
                        continue
            try:
                self.parsed(frames)
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                log("a message of the kernel was not understood: %r" % error)

    def parsed(self, frames: List[bytes]) -> None:
        raw_header, raw_parent, metadata, content, buffers = split(frames)
        kind = json.loads(raw_header.decode("utf-8", "replace"))["msg_type"]
        parent = json.loads(raw_parent.decode("utf-8", "replace"))
        message, asked = str(parent.get("msg_id", "")), str(parent.get("msg_type", ""))
        if kind == "status":
            state = json.loads(content.decode("utf-8", "replace")).get("execution_state")
            self.status(state, message, asked)
            return
        if kind in IGNORED:
            return
        if message.startswith("nbgpu-"):
            return  # of our own silent requests
        run = self.runs.by_message.get(message)
        if run is None and asked == "execute_request":
            run = self.runs.of_notebook(message)
        name = run.id if run is not None else ""
        if run is not None:
            self.runs.begin(run)
            if kind == "error":
                error = json.loads(content.decode("utf-8", "replace"))
                run.failed = str(error.get("ename") or "Error")
        if len(self.parents) >= PARENTS:
            self.parents.clear()
        self.parents[raw_parent] = name
        encoded = [base64.b64encode(part).decode() for part in buffers]
        self.spool.add(name, kind, one_line(content), one_line(metadata), dump(encoded))

    def status(self, state: str, message: str, asked: str) -> None:
        run = self.runs.by_message.get(message)
        if state == "busy":
            if asked in USE:
                self.busy[message] = None
                self.used()
            if run is not None:
                self.runs.begin(run)
        elif state == "idle":
            if self.busy.pop(message, False) is None:
                self.used()
            if message in self.quiets:
                self.quiets[message].set()
            if run is not None and not run.ended:
                run.idle = True
                if run.by == "notebook" or run.reply:
                    self.runs.settle(run)
                else:
                    self.loop.call_later(ANSWER_S, self.runs.settle, run)

    def replied(self, run: Run, content: Json) -> None:
        """The kernel's answer to a run of our own."""
        run.reply = str(content.get("status") or "error")
        if run.reply == "error":
            run.failed = run.failed or str(content.get("ename") or "Error")
        if run.idle:
            self.runs.settle(run)
        else:
            self.loop.call_later(OUTPUT_S, self.runs.settle, run)

    def gone(self) -> None:
        """The kernel is no more."""
        self.busy.clear()
        self.parents.clear()


def one_line(text: bytes) -> bytes:
    """JSON text without line breaks."""
    return dump(json.loads(text.decode("utf-8", "replace"))) if b"\n" in text else text
