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
from nbgpu import errors, words
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
        ("%gpu deploy M --idle 0", "--idle cannot be 0 s. It goes from 1 s to 1 d."),
        ("%gpu scale chat", "Scale chat to what?"),
        ("%gpu scale chat --workers 0", "would let no worker start"),
        ("%gpu warm chat --for soon", "is no length of time"),
        ("%gpu deploy M --tiers parkd", "There is no tier parkd. Did you mean parked?"),
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
        ("%gpu chart chat w", ["workers"]),
        ("%gpu warm chat --f", ["--for"]),
        ("%gpu scale c", ["chat"]),
        ("%gpu events c", ["chat"]),
        ("%gpu deploy M --tiers n", ["none"]),
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


def test_scale_says_what_changed_and_what_it_may_cost(api: Api, shell: Any, capsys: Any) -> None:
    run(shell, "%gpu deploy Org/M --name chat")
    capsys.readouterr()
    ep = run(shell, "%gpu scale chat --workers 4")
    assert ep.data.workers.max == 4
    assert capsys.readouterr().out.startswith(
        "at most 4 workers now; chat may cost up to $0.40/h\n"
    )
    assert api.bodies[-1] == {"workers": {"max": 4}}
    run(shell, "%gpu scale chat --workers 4")
    assert capsys.readouterr().out.startswith("chat is set so already: at most 4 workers.\n")
    run(shell, "%gpu settings rate.local=0.10")
    run(shell, "%gpu scale chat --always-on 2 --per-worker 3")
    said = capsys.readouterr().out
    assert "2 always on now; a worker for every 3 requests that wait or run now" in said
    assert "2 always on: about $146.00 a month at $0.10/h each." in said
    run(shell, "%gpu stop chat")
    run(shell, "%gpu scale chat --idle 5m --delay 1.5s")
    said = capsys.readouterr().out
    assert (
        "stops after 5 min without work now; another worker once a request has waited 1.5 s" in said
    )
    assert "It is stopped, and stays so until: %gpu start chat" in said


def test_warm_waits_for_the_workers_and_says_until_when(api: Api, shell: Any, capsys: Any) -> None:
    run(shell, "%gpu deploy Org/M --name chat")
    api.endpoints["chat"].nbgpu.workers = []
    ep = run(shell, "%gpu warm chat --for 1h --workers 2")
    said = capsys.readouterr()
    assert [w.nbgpu.state for w in ep.data.nbgpu.workers] == ["idle", "idle"]
    assert "2 workers, about $0.20 until then. End it with: %gpu warm chat --off" in said.out
    assert "chat: ready after" in said.err
    assert f"warm until {words.clock(ep.data.nbgpu.warm.until_us)}" in run(shell, "%gpu ls").text()
    run(shell, "%gpu warm chat --off")
    run(shell, "%gpu warm chat --off")
    said = capsys.readouterr()
    assert "chat is no longer kept warm: its workers stop after 1 min without work." in said.out
    assert "chat was not kept warm." in said.out


def test_an_interrupted_warm_is_taken_back(api: Api, shell: Any) -> None:
    run(shell, "%gpu deploy Org/M --name chat --idle 30s")
    found, api.warm_polls = api.endpoints["chat"].nbgpu, None
    found.workers = []
    begun = api.polls
    interrupt_when(lambda: api.polls > begun + 2)
    done = shell.run_cell("%gpu warm chat")
    assert isinstance(done.error_in_exec, Interrupted)
    assert "interrupted; chat is no longer kept warm: its workers stop after 30 s" in str(
        done.error_in_exec
    )
    assert found.warm is None and api.bodies[-1] == {"seconds": 0}


def test_an_interrupted_warm_leaves_the_one_before(api: Api, shell: Any) -> None:
    run(shell, "%gpu deploy Org/M --name chat")
    run(shell, "%gpu warm chat --for 10m")
    api.warm_polls, begun = None, api.polls
    interrupt_when(lambda: api.polls > begun + 2)
    done = shell.run_cell("%gpu warm chat --for 2h --workers 2")
    assert "chat is kept warm until" in str(done.error_in_exec)
    assert "as before" in str(done.error_in_exec)
    assert api.bodies[-1]["workers"] == 1 and 590 <= api.bodies[-1]["seconds"] <= 600


def test_a_worker_that_cannot_start_ends_the_wait(api: Api, shell: Any) -> None:
    run(shell, "%gpu deploy Org/M --name chat")
    found, api.warm_polls = api.endpoints["chat"].nbgpu, None
    found.workers = []
    found.state, found.reason.text = "failed", "no memory"
    done = shell.run_cell("%gpu warm chat")
    assert isinstance(done.error_in_exec, errors.ServiceError)
    assert "chat did not get warm, and is no longer kept so: no memory." in str(done.error_in_exec)
    assert "See %gpu why chat" in str(done.error_in_exec) and found.warm is None


def test_the_live_line_of_warm_says_what_how_long_and_how_much(api: Api) -> None:
    from nbgpu import scaleflows

    client = Client()
    before = client.do("deploy", model="Org/M", name="chat").data
    api.endpoints["chat"].nbgpu.workers[0].nbgpu.state = "starting"
    api.endpoints["chat"].nbgpu.reason.text = "starting a worker: weights (3 s, usually 21 s)"
    api.endpoints["chat"].nbgpu.cost_so_far = "0.42"
    api.warm_polls = None
    found = client.do("show", name="chat").data
    text, share = scaleflows.waiting(found, before, 0, 1, 3.5)
    assert text == (
        "chat: starting a worker: weights · 3.5 s of typically 21.0 s · $0.01 so far · interrupt to cancel"
    )
    assert share == pytest.approx(3.5 / 21)


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
