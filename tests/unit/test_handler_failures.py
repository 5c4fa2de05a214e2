"""Why a handler ended, from the log of a real Python, the SDK's lines and the relay's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from nbgpu_backend.engines.handler.failures import explain

STARTED = "--- Starting Serverless Worker |  Version 1.12.0 ---"


def run(folder: Path, source: str, **others: str) -> list[str]:
    """The log of a program."""
    for name, text in {"handler": source, **others}.items():
        (folder / f"{name}.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-u", folder / "handler.py"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder,
    )  # fmt: skip
    return done.stdout.splitlines()


def sdk(message: str, job: str | None = None, level: str = "INFO") -> str:
    return json.dumps({"requestId": job, "message": message, "level": level})


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("\nimport nosuchthing.part", "There is no module nosuchthing (handler.py, line 2): add nosuchthing to requirements.txt beside the handler, then deploy again."),
        ("import cv2", "There is no module cv2 (handler.py, line 1): add opencv-python-headless to requirements.txt"),
        ("import util", "There is no module deeper (util.py, line 2): add deeper"),
        ("from json import nothing", "The module json has no nothing (handler.py, line 1)"),
        ("print('loading')\nraise ValueError('the model\\nis gone')", "ValueError: the model (handler.py, line 2)."),
        ("import json\njson.loads('{')", "(handler.py, line 2)."),
        ("def f(:", "handler.py, line 1: invalid syntax."),
        ("import broken", "broken.py, line 2: "),
        ("raise MemoryError", "There is too little memory (handler.py, line 1)."),
        ("raise KeyError", "KeyError (handler.py, line 1)."),
        ("try:\n    1/0\nexcept Exception as e:\n    raise RuntimeError('second') from e", "RuntimeError: second (handler.py, line 4)."),
        ("import atexit, sys\natexit.register(lambda: print('bye', file=sys.stderr))\nassert 0, 'no'", "AssertionError: no (handler.py, line 3)."),
    ],
)  # fmt: skip
def test_the_exception_that_ended_it_is_told(tmp_path: Path, source: str, says: str) -> None:
    tail = run(tmp_path, source, util="\nimport deeper", broken="\ndef f(:")
    assert says in explain(tail), tail


def traceback_of(what: str) -> list[str]:
    return [
        "Traceback (most recent call last):",
        '  File "/w/handler.py", line 3, in handler',
        what,
    ]


@pytest.mark.parametrize(
    "tail",
    [
        [],
        [STARTED, sdk("Jobs in queue: 1"), "a line of mine"],
        # one that was caught and printed, long ago or during a job
        [*traceback_of("ValueError: caught"), *["working"] * 20],
        [*traceback_of("ValueError: caught"), sdk("Started.", "job-1")],
        [sdk("Captured Handler Exception", "job-1", "ERROR"), sdk("Traceback (most recent call last):\nValueError: x", "job-1", "ERROR")],
        ["Traceback (most recent call last):"],
    ],
)  # fmt: skip
def test_what_ended_no_program_is_no_reason(tail: Sequence[str]) -> None:
    assert explain(tail) == ""


def test_a_crash_after_the_start_is_told(tmp_path: Path) -> None:
    tail = [STARTED, sdk("Ping URL not set"), *traceback_of("OSError: [Errno 5] I/O error")]
    assert explain(tail) == "OSError: [Errno 5] I/O error (handler.py, line 3)."


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (sdk("Fitness check failed: gpu | RuntimeError: none", level="ERROR"),
         "A fitness check of the handler failed: gpu | RuntimeError: none."),
        ("relay: the handler could not be started: [Errno 2] No such file or directory: '/e/bin/python'",
         "The handler could not be started: [Errno 2]"),
        ("relay: the handler ended with code 0 before it asked for a job", "it has to call runpod.serverless.start"),
    ],
)  # fmt: skip
def test_what_the_sdk_and_the_relay_say_is_understood(line: str, says: str) -> None:
    assert says in explain(["mine", line, sdk("Worker is unhealthy, exiting.", level="ERROR")])
