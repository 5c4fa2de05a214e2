"""Pods on a command line: runs, terminals, and what must not be typed."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from nbgpu.parsing import parse

from tests.support.api import Api, until


@pytest.fixture
def train(api: Api, nbgpu: Any) -> Any:
    assert nbgpu("open", "train", "--cpu", "1").returncode == 0
    return api.pods.pods["train"]


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["run", "t", "-c", "print(1)"], {"code": "print(1)", "text": None}),
        (["run", "t", "--label", "x", "a.py", "--lr", "3", "-c"],
         {"label": "x", "text": ["a.py", "--lr", "3", "-c"], "code": None}),
        (["run", "--background", "t", "-"], {"background": True, "text": ["-"]}),
        (["run", "t", "--get=a,b", "--", "--odd.py"], {"get": ["a", "b"], "text": ["--odd.py"]}),
    ],
)  # fmt: skip
def test_what_follows_the_script_is_the_scripts(words: list[str], values: dict[str, Any]) -> None:
    found = parse(words, "cli").values
    assert found["name"] == "t" and {key: found[key] for key in values} == values


def test_code_scripts_and_standard_input(train: Any, nbgpu: Any, tmp_path: Path) -> None:
    done = nbgpu("run", "train", "-c", "x = 1; print('hi'); x + 1")
    assert (done.returncode, done.stdout) == (0, "hi\n2\n")
    assert re.search(r"^train · local · .* · \$0", done.stderr, re.M)
    script = tmp_path / "job.py"
    script.write_text(
        "from __future__ import annotations\nimport sys\n"
        "if __name__ == '__main__':\n    print(sys.argv[1:], x)\n"
    )
    assert nbgpu("run", "train", str(script), "--lr", "3").stdout == "['--lr', '3'] 1\n"
    assert train.runs[-1].label == "job.py"
    assert nbgpu("run", "train", "-", input="print('piped')").stdout == "piped\n"
    done = nbgpu("run", "train", "-c", "print(input('who? '))", input="me\n")
    assert done.stdout == "who? me\n"
    assert "cannot be read" in nbgpu("run", "train", "none.py").stderr
    assert "nbgpu run NAME -c CODE" in nbgpu("run", "train").stderr


def test_a_failed_run_fails_the_command(train: Any, nbgpu: Any) -> None:
    done = nbgpu("run", "train", "-c", "1 / 0")
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr
    assert done.stderr.rstrip().endswith("nbgpu: in train: ZeroDivisionError: division by zero")
    assert "\x1b[" not in done.stderr
    done = nbgpu("run", "train", "-c", "print(7)", "--json")
    found = json.loads(done.stdout)
    assert found["state"] == "ok" and found["output"] == "7\n" and "7" in done.stderr


def test_background_and_attach(train: Any, nbgpu: Any) -> None:
    done = nbgpu("run", "train", "-c", "print('later')", "--background", "--json")
    assert json.loads(done.stdout)["state"] in ("queued", "running")
    assert nbgpu("attach", "train").stdout == "later\n"


def test_an_interrupt_ends_what_runs_there(train: Any, api: Api) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "nbgpu", "run", "train", "-c",
         "import time; print('on it', flush=True); time.sleep(600)"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert until(lambda: any(o.type == "stream" for o in train.outputs))
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=30)
    assert process.returncode == 130 and out == "on it\n"
    assert "interrupted; it is stopped in train, after" in said
    assert train.runs[-1].state == "interrupted"


def test_a_day_with_a_pod(train: Any, api: Api, nbgpu: Any, tmp_path: Path) -> None:
    assert json.loads(nbgpu("show", "train", "--json").stdout)["nbgpu"]["state"] == "idle"
    assert [p["name"] for p in json.loads(nbgpu("ls", "pods", "--json").stdout)["pods"]] == [
        "train"
    ]
    assert "nbgpu run train" in nbgpu("show", "train").stdout.replace("  ", " ")
    assert "http://127.0.0.1:41000/" in nbgpu("port", "train", "6006").stdout
    file = tmp_path / "a.txt"
    file.write_text("a")
    assert nbgpu("put", "train", str(file)).returncode == 0
    assert (
        json.loads(nbgpu("get", "train", "a.txt", str(tmp_path / "b"), "--json").stdout)["files"]
        == 1
    )
    assert "jupyter console --kernel nbgpu-train" in nbgpu("kernel", "train").stdout
    assert nbgpu("secret", "add", "HF_TOKEN", input="hf_x\n").returncode == 0
    assert api.pods.secrets == {"HF_TOKEN": "hf_x"}
    assert nbgpu("secret", "add", "HF_TOKEN", "hf_y").returncode == 2
    done = nbgpu("delete", "train")
    assert done.returncode == 2 and "Add --yes" in done.stderr and "train" in api.pods.pods
    done = nbgpu("stop", "--all")
    assert done.returncode == 2 and "Add --yes" in done.stderr
    assert nbgpu("stop", "--all", "--yes").stdout == "Stopped: train.\n"
    done = nbgpu("delete", "train", "--yes", "--json")
    assert json.loads(done.stdout) == {"deleted": "train"} and not api.pods.pods


def test_ssh_passes_a_terminal_on(train: Any, api: Api) -> None:
    main, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "nbgpu", "ssh", "train"], stdin=side, stdout=side, stderr=side,
        start_new_session=True, env={**os.environ, "LINES": "40", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(side)
    seen = b""

    def read_until(wanted: bytes) -> None:
        nonlocal seen
        end = time.monotonic() + 30
        while wanted not in seen:
            ready, _, _ = select.select([main], [], [], max(0.0, end - time.monotonic()))
            assert ready, seen
            seen += os.read(main, 4096)

    assert until(lambda: bool(api.pods.typed))
    assert api.pods.typed[0] == {"rows": "40", "cols": "100"}
    assert until(lambda: not termios.tcgetattr(main)[3] & termios.ECHO)  # it is raw by now
    os.write(main, "ä\x03".encode())  # raw: an interrupt is passed on, and does not end this
    read_until("<ä\x03>".encode())
    process.send_signal(signal.SIGWINCH)
    assert until(lambda: {"size": [40, 100]} in api.pods.typed)
    os.write(main, b"exit\r")
    read_until(b"The terminal of train is closed.")
    assert process.wait(30) == 0
    os.close(main)
