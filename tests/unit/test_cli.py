"""`nbgpu` on a command line, against a stand-in backend."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Api, until


def test_status_names_the_backend(api: Api, nbgpu: Any) -> None:
    done = nbgpu("status", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert found["backend"] == {
        "pid": os.getpid(),
        "url": f"http://127.0.0.1:{api.port}",
        "version": "0.0.test",
    }
    assert found["endpoints"] == [] and found["perHour"] == "0.10"


def test_a_day_with_an_endpoint(api: Api, nbgpu: Any) -> None:
    done = nbgpu("deploy", "Org/M", "--name", "chat")
    assert "Ask it with: nbgpu ask chat" in done.stdout and "%gpu" not in done.stdout
    worker = json.loads(nbgpu("ls", "--json").stdout)["endpoints"][0]["workers"][0]
    known = {"id": "w1", "pid": 4711, "port": 8001, "state": "idle", "tier": "cold"}
    assert worker == worker | known
    done = nbgpu("ask", "chat", "hello", "there")
    assert done.stdout == "hello there \n" and "answered in 0.91 s" in done.stderr
    assert nbgpu("ask", "chat", "-", input="from a pipe").stdout == "from a pipe \n"
    assert json.loads(nbgpu("ask", "chat", "hi", "--json").stdout)["text"] == "hi "
    assert nbgpu("logs", "chat", "-n", "2").stdout == "line <198>\nline <199>\n"
    assert "next     Ask it something." in nbgpu("why", "chat").stdout
    assert "rate.local" in nbgpu("settings", "rate.local=0.10").stdout
    assert json.loads(nbgpu("stop", "chat", "--json").stdout)["nbgpu"]["state"] == "stopped"
    assert json.loads(nbgpu("delete", "chat", "--json").stdout) == {"deleted": "chat"}
    assert "nbgpu deploy" in nbgpu("ls").stdout


def test_deploy_prints_json_alone(api: Api, nbgpu: Any) -> None:
    done = nbgpu("deploy", "short/M", "--name", "chat", "--json")
    assert json.loads(done.stdout)["nbgpu"]["model"]["fetch"]["state"] == "done"
    assert "weights fetched" in done.stderr and "chat is deployed" in done.stderr


def test_charts_are_text_and_a_picture(api: Api, nbgpu: Any, tmp_path: Path) -> None:
    nbgpu("deploy", "Org/M", "--name", "chat")
    assert "No requests yet. Ask something with: nbgpu ask chat" in nbgpu("chart", "chat").stdout
    nbgpu("settings", "rate.local=0.10")
    done = nbgpu("chart", "chat", "cost", "--save", str(tmp_path / "cost.png"))
    assert "Cost of chat: $0.10 since" in done.stdout
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")


def test_scaling_on_a_command_line(api: Api, nbgpu: Any) -> None:
    nbgpu("deploy", "Org/M", "--name", "chat")
    assert "at most 2 workers now" in nbgpu("scale", "chat", "--workers", "2").stdout
    done = nbgpu("warm", "chat", "--for", "30m", "--json")
    assert json.loads(done.stdout)["nbgpu"]["warm"]["workers"] == 1
    assert "End it with: nbgpu warm chat --off" in done.stderr
    assert "Nothing has happened to chat yet." in nbgpu("events", "chat").stdout
    assert "worker w-01 is idle" in nbgpu("why", "w-01").stdout
    done = nbgpu("chart", "chat", "workers")
    assert done.stdout == "No worker of chat yet. Start one with: nbgpu warm chat\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["frob"], 2, "There is no verb frob"),
        (["start"], 2, "missing: NAME"),
        (["stop", "--frob"], 2, "has no option --frob"),
        (["deploy", "M", "--env", "HF_TOKEN=1"], 2, "looks like a secret"),
        (["stop", "chat"], 1, "There is no endpoint chat. See them with: nbgpu ls"),
        (["shutdown", "--all"], 2, "Add --yes"),
        (["scale", "chat"], 2, "nbgpu scale chat --workers 4"),
        (["warm", "chat"], 1, "There is no endpoint chat. See them with: nbgpu ls"),
        (["chart", "chat", "speed"], 2, "There are: latency, cost, workers, coldstart."),
    ],
)
def test_mistakes_and_failures(
    api: Api, nbgpu: Any, words: list[str], code: int, said: str
) -> None:
    done = nbgpu(*words)
    assert (done.returncode, done.stdout) == (code, "") and said in done.stderr
    assert done.stderr.count("\n") == 1
    done = nbgpu(*words, "--json")
    problem = json.loads(done.stderr)["error"]
    assert (
        done.returncode == code
        and said.split(". ")[0].rstrip(".") in problem["what"] + problem["next"]
    )


def test_help_and_version(nbgpu: Any, api: Api) -> None:
    for words in ([], ["help"], ["--help"], ["-h"]):
        assert "nbgpu ask NAME TEXT" in nbgpu(*words).stdout
    assert "--always-on" in nbgpu("deploy", "--help").stdout
    assert "--yes" in nbgpu("help", "shutdown").stdout
    assert nbgpu("--version").stdout.startswith("nbgpu ")
    assert api.seen == []


def test_an_interrupt_ends_with_130(api: Api) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "nbgpu", "deploy", "slow/M", "--name", "chat"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert until(lambda: api.polls > 1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (
        "chat, which this deploy had created, is deleted again." in said and "Traceback" not in said
    )
    assert api.endpoints == {}


def test_a_reader_that_goes_away_is_no_error(api: Api, nbgpu: Any) -> None:
    nbgpu("deploy", "Org/M", "--name", "chat")
    api.words_pause_s = 0.001
    shell = f"{sys.executable} -m nbgpu ask chat '{'word ' * 400}' | head -c 5"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shell}"], capture_output=True, text=True
    )
    assert done.stdout == "word " and done.stderr == "" and done.returncode == 141


def test_shutdown_without_a_backend_starts_none(tmp_path: Path) -> None:
    home = tmp_path / "none"
    done = subprocess.run(
        [sys.executable, "-m", "nbgpu", "shutdown"], text=True, capture_output=True, check=True,
        stdin=subprocess.DEVNULL, env={**os.environ, "NBGPU_HOME": str(home)},
    )  # fmt: skip
    assert done.stdout == "No backend is running.\n" and not home.exists()
