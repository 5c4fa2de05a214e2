"""`%gpu` in a real IPython, against a stand-in backend."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.error import UsageError
from nbgpu import errors
from nbgpu.client import Client
from nbgpu.errors import Interrupted, NotFound
from nbgpu.verbs.spec import verbs

from tests.support.api import Api, until


def complete(shell: Any, text: str) -> list[str]:
    with provisionalcompleter():
        return [c.text for c in shell.Completer.completions(text, len(text))]


def run(shell: Any, cell: str) -> Any:
    """The result of a cell that succeeds."""
    done = shell.run_cell(cell)
    assert done.success, done.error_in_exec
    return done.result


def interrupt_when(condition: Callable[[], bool]) -> None:
    """Press Ctrl-C in the main thread once the condition holds."""

    def press() -> None:
        if until(condition):
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()


HEAVY = [
    "pandas",
    "matplotlib",
    "ipywidgets",
    "fastapi",
    "sqlalchemy",
    "pydantic",
    "httpx",
    "numpy",
    "openai",
    "aiohttp",
]


def test_loading_is_quick_and_light() -> None:
    program = textwrap.dedent(
        f"""
        import sys, time
        from IPython.core.interactiveshell import InteractiveShell
        shell = InteractiveShell.instance()
        began = time.perf_counter()
        shell.run_line_magic("load_ext", "nbgpu")
        took = time.perf_counter() - began
        shell.run_cell("%gpu help")
        print("heavy:", [m for m in {HEAVY!r} if m in sys.modules])
        print("took:", took)
        """
    )
    best = 9.0
    for _ in range(3):  # the machine may be busy: the best of three
        out = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        assert "heavy: []" in out.stdout
        best = min(best, float(out.stdout.split("took:")[1]))
    assert best <= 0.3


def test_bare_is_the_status(api: Api, shell: Any) -> None:
    run(shell, "%gpu deploy Org/M --name chat")
    status = run(shell, "%gpu")
    assert status.text().startswith(
        "1 endpoint · 1 worker · $0.10/h · $0.41 today · idle but billing: chat"
    )
    assert "<td" in shell.display_formatter.format(status)[0]["text/html"]


def test_deploy_says_what_came_of_it(api: Api, shell: Any, capsys: Any) -> None:
    ep = run(shell, "%gpu deploy Org/M --name chat")
    assert ep.name == "chat" and ep.state == "asleep"
    assert "chat is deployed: 0 to 1 workers" in capsys.readouterr().out
    run(shell, "%gpu deploy Org/M --name chat")
    assert "chat is already up, " in capsys.readouterr().out
    run(shell, "%gpu deploy Org/M --name chat --workers 2")
    assert "workers.max 1 → 2" in capsys.readouterr().out
    body = api.bodies[0]["nbgpu"]
    assert body["cwd"] == os.getcwd() and body["converge"] is True


def test_deploy_tells_where_it_was_asked_for(
    api: Api, shell: Any, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setenv("JPY_SESSION_NAME", "day/one.ipynb")
    run(shell, "%gpu deploy Org/M --name chat")
    monkeypatch.delenv("JPY_SESSION_NAME")
    shell.user_ns["__vsc_ipynb_file__"] = "/home/me/two.ipynb"
    done = shell.run_cell("%gpu deploy Org/M --name chat")
    assert isinstance(done.error_in_exec, errors.Conflict)
    assert "was made by day/one.ipynb. Add --take." in str(done.error_in_exec)
    run(shell, "%gpu deploy Org/M --name chat --take")
    assert api.bodies[1]["nbgpu"]["origin"] == {"notebook": "/home/me/two.ipynb"}


def test_deploy_waits_for_the_weights(api: Api, shell: Any, capsys: Any) -> None:
    run(shell, "%gpu deploy short/M --name chat")
    assert "weights fetched in" in capsys.readouterr().err
    done = shell.run_cell("%gpu deploy broken/M --name bad")
    assert isinstance(done.error_in_exec, errors.DeployFailed)
    assert "There is no model broken/model on the hub." in str(done.error_in_exec)


def test_a_handler_waits_for_its_environment(api: Api, shell: Any, capsys: Any) -> None:
    run(shell, "%gpu deploy short/mood.py")
    said = capsys.readouterr()
    assert "mood: environment installed in" in said.err
    assert "mood is deployed" in said.out and "Its jobs are posted to" in said.out
    assert api.bodies[-1]["nbgpu"]["engine"] == {"name": "handler", "options": []}
    assert api.bodies[-1]["nbgpu"]["cwd"] == str(Path.cwd())


def test_always_on_says_what_a_month_costs(api: Api, shell: Any, capsys: Any) -> None:
    run(shell, "%gpu settings rate.local=0.10")
    run(shell, "%gpu deploy Org/M --name chat --always-on 2")
    assert "2 always on: about $146.00 a month" in capsys.readouterr().out


def test_an_interrupted_deploy_is_deleted_again(api: Api, shell: Any, capsys: Any) -> None:
    interrupt_when(lambda: api.polls > 1)
    done = shell.run_cell("%gpu deploy slow/M --name chat")
    assert isinstance(done.error_in_exec, Interrupted)
    assert "chat, which this deploy had created, is deleted again" in str(done.error_in_exec)
    assert api.endpoints == {}
    out = capsys.readouterr()
    assert "Traceback" not in out.out + out.err


def test_an_interrupted_deploy_leaves_what_was_there(api: Api, shell: Any) -> None:
    client = Client()
    client.send(verbs()["deploy"].load()("slow/M", name="chat"))
    interrupt_when(lambda: api.polls > 1)
    done = shell.run_cell("%gpu deploy slow/M --name chat")
    assert "chat was there before and stays" in str(done.error_in_exec)
    assert list(api.endpoints) == ["chat"]


def test_ask_streams_the_answer_and_a_badge(api: Api, shell: Any, capsys: Any) -> None:
    run(shell, "%gpu deploy Org/M --name chat")
    capsys.readouterr()
    shell.user_ns["who"] = "world"
    assert run(shell, "%%gpu ask chat -o said\nhello {{who}} {raw} # kept") is None
    out = capsys.readouterr()
    assert out.out == "hello world {raw} # kept \n"
    assert (
        "answered in 0.91 s: first token 0.21 s, warm · 35 tokens, 49 tokens/s · $0.0003" in out.err
    )
    said = shell.user_ns["said"]
    assert str(said) == "hello world {raw} # kept " and said.timings["cold"] is False
    assert api.bodies[-1]["messages"] == [{"role": "user", "content": "hello world {raw} # kept"}]


def test_a_cold_answer_says_how_long_the_start_took(api: Api, shell: Any, capsys: Any) -> None:
    run(shell, "%gpu deploy Org/M --name chat")
    api.waits = 3
    run(shell, "%%gpu ask chat\nhi")
    assert "answered in 22.0 s: 20.9 s cold start, first token 0.4 s" in capsys.readouterr().err


def test_an_interrupted_ask_is_cancelled(api: Api, shell: Any, capsys: Any) -> None:
    run(shell, "%gpu deploy Org/M --name chat")
    api.waits = 1000
    interrupt_when(api.asked.is_set)
    done = shell.run_cell("%%gpu ask chat\nhi")
    assert isinstance(done.error_in_exec, Interrupted)
    assert "the request to chat is cancelled" in str(done.error_in_exec)
    assert api.cancelled.wait(10)
    assert "Traceback" not in "".join(capsys.readouterr())


def test_a_worker_that_dies_fails_the_cell_and_keeps_what_came(
    api: Api, shell: Any, capsys: Any
) -> None:
    run(shell, "%gpu deploy Org/M --name chat")
    done = shell.run_cell("%%gpu ask chat\none two boom")
    assert isinstance(done.error_in_exec, errors.EngineFailed)
    assert done.error_in_exec.text == "one two " and str(done.error_in_exec) == "The worker died."


def test_what_an_endpoint_is_called_is_guessed(api: Api, shell: Any, capsys: Any) -> None:
    run(shell, "%gpu deploy Org/M --name chat")
    for cell in ("%gpu stop chta", "%gpu why chta", "%%gpu ask chta\nhi"):
        done = shell.run_cell(cell)
        assert isinstance(done.error_in_exec, errors.ServiceError)
        assert "no endpoint chta. Did you mean chat?" in str(done.error_in_exec), cell
    shown = capsys.readouterr()
    assert "NotFound: There is no endpoint chta." in shown.out + shown.err
    assert "Traceback" not in shown.out + shown.err


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("%gpu frob", "There is no verb frob"),
        ("%gpu ask chat", "Write %%gpu ask chat"),
        ("%%gpu ask chat\n", "The cell is empty"),
        ("%%gpu deploy M\nx", "takes no cell"),
        ("%gpu deploy {nothing}", "{nothing} was left as it is, because nothing is not defined"),
        ("%gpu deploy M --env HF_TOKEN=x", "looks like a secret"),
        ('%gpu stop "', "quotation mark"),
        ("%%gpu ask chat\n{{nothing}}", "nothing is not defined"),
        ("%gpu deploy M --idle 0", "greater than or equal to 1"),
    ],
)
def test_a_typo_is_one_line_and_fails_the_cell(
    api: Api, shell: Any, capsys: Any, cell: str, said: str
) -> None:
    done = shell.run_cell(cell)
    assert isinstance(done.error_in_exec, UsageError)
    text = "".join(capsys.readouterr())
    assert said in text and "Traceback" not in text
    assert not [s for s in api.seen if s[0] != "GET"]


def test_variables_expand_in_the_line(api: Api, shell: Any) -> None:
    shell.user_ns["model"] = "Org/M"
    assert run(shell, "%gpu deploy {model} --name chat  # a comment").name == "chat"
    assert api.bodies[0]["nbgpu"]["model"] == "Org/M"


def test_results_land_in_names(api: Api, shell: Any) -> None:
    run(shell, "%gpu deploy Org/M --name chat")
    run(shell, "x = %gpu ls")
    assert list(shell.user_ns["x"]) == ["chat"]
    assert run(shell, "%gpu ls -o y") is None
    assert list(shell.user_ns["y"].df["name"]) == ["chat"]


@pytest.mark.parametrize(
    "cell", ["%gpu deploy?", "%gpu help deploy", "%gpu deploy M --help", "%gpu deploy M?"]
)
def test_help_of_one_verb(shell: Any, cell: str) -> None:
    assert "--always-on" in run(shell, cell)


def test_help_of_all(shell: Any) -> None:
    for cell in ("%gpu help", "%gpu?", "%gpu -h"):
        assert "%%gpu ask NAME" in run(shell, cell)
    assert "the cell is the question" in run(shell, "%%gpu ask?").replace("In a notebook ", "")


def test_a_question_mark_in_a_cell_is_no_help(api: Api, shell: Any, capsys: Any) -> None:
    run(shell, "%gpu deploy Org/M --name chat")
    run(shell, "%%gpu ask chat -o said\nwhat is\n%gpu deploy?")
    assert "%gpu deploy?" in str(shell.user_ns["said"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("%gpu st", ["start", "status", "stop"]),
        ("%gpu stop c", ["chat"]),
        ("x = %gpu l", ["logs", "ls"]),
        ("x = %gpu show ", ["chat"]),
        ("%%gpu ask c", ["chat"]),
        ("%gpu deploy M --al", ["--always-on"]),
        ("%gpu deploy M --engine v", ["vllm"]),
        ("%gpu deploy M --engine=c", ["command"]),
        ("%gpu deploy M --engine h", ["handler"]),
        ("%gpu chart chat l", ["latency"]),
        ("%gpu help dep", ["deploy"]),
        ("%gpu settings ra", ["rate.local="]),
        ("%gpu engine a", ["add"]),
    ],
)
def test_completion(api: Api, shell: Any, text: str, expected: list[str]) -> None:
    from nbgpu.client import connect

    connect().deploy("Org/M", name="chat")
    assert sorted(complete(shell, text)) == expected


def test_completion_starts_no_backend(tmp_path: Any, monkeypatch: Any, shell: Any) -> None:
    monkeypatch.setenv("NBGPU_HOME", str(tmp_path / "none"))
    assert complete(shell, "%gpu stop zz") == []
    assert not (tmp_path / "none").exists()


def test_unloading_removes_everything(shell: Any) -> None:
    shell.run_line_magic("unload_ext", "nbgpu")
    assert "gpu" not in shell.magics_manager.magics["line"]
    assert not any("nbgpu" in f.__module__ for f in shell.input_transformers_cleanup)
    shell.run_line_magic("load_ext", "nbgpu")
    assert sum("nbgpu" in f.__module__ for f in shell.input_transformers_cleanup) == 1


def test_stop_start_delete(api: Api, shell: Any, capsys: Any) -> None:
    run(shell, "%gpu deploy Org/M --name chat")
    api.stop_pause_s = 0.8
    assert run(shell, "%gpu stop chat").state == "stopped"
    assert "chat is stopped, after" in capsys.readouterr().err
    assert run(shell, "%gpu start chat").state == "asleep"
    assert "deleted" in run(shell, "%gpu delete chat").text()
    assert isinstance(shell.run_cell("%gpu show chat").error_in_exec, NotFound)
