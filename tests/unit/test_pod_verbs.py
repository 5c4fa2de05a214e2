"""Pods in a real IPython: opened, run in, stopped, deleted; against a stand-in with real kernels."""

from __future__ import annotations

import asyncio
import getpass
import io
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from IPython.core.error import UsageError
from nbgpu import errors
from nbgpu.client import Client
from nbgpu.errors import Interrupted, NotFound, RunFailed
from nbgpu.runoutput import ANSI
from nbgpu.verbs.call import Call
from nbgpu.verbs.spec import verbs

from tests.support.api import Api, until


def call(name: str, /, *arguments: Any, **options: Any) -> Call:
    found: Call = verbs()[name].load()(*arguments, **options)
    return found


def run(shell: Any, cell: str) -> Any:
    """The result of a cell that succeeds."""
    done = shell.run_cell(cell)
    assert done.success, done.error_in_exec
    return done.result


def fails(shell: Any, cell: str) -> BaseException:
    done = shell.run_cell(cell)
    assert not done.success
    error: BaseException = done.error_in_exec
    return error


def interrupt_when(condition: Callable[[], bool]) -> None:
    def press() -> None:
        if until(condition):
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()


@pytest.fixture
def train(api: Api, shell: Any, capsys: Any) -> Any:
    """A pod that is up."""
    run(shell, "%gpu open train --cpu 1")
    capsys.readouterr()
    return api.pods.pods["train"]


# open


def test_open_asks_for_a_pod_that_converges(tmp_path: Path) -> None:
    file = tmp_path / "r.txt"
    file.write_text("# ours\nnumpy\n\npandas>=2\n")
    made = call(
        "open", "train", gpu=["H100:2", "A100:2"], until=28_800, max_cost=5, idle_stop="never",
        volume="data", env={"A": "1"}, secret=["HF_TOKEN"], requirements=str(file), network="none",
        before_stop="true", memory="8GB", port=["6006", "5432/tcp"],
    )  # fmt: skip
    assert (made.method, made.path, made.answer) == ("POST", "/v2/pods", "Pod")
    body = made.body
    assert body is not None
    assert body["gpu"] == {"ids": ["H100", "A100"], "count": 2} and "cpu" not in body
    assert body["ports"] == ["6006/http", "5432/tcp"] and body["env"] == {"A": "1"}
    ours = body["nbgpu"]
    assert ours["requirements"] == ["numpy", "pandas>=2"] and ours["secrets"] == ["HF_TOKEN"]
    assert ours["volume"] == "data" and ours["network"] == "none" and ours["converge"] is True
    limits = ours["limits"]
    assert limits["idleStopS"] is None and limits["maxCost"] == "5"
    assert limits["memoryBytes"] == 8_000_000_000 and limits["untilUs"] > 0
    assert call("open", "t").body["cpu"] == {"vcpuCount": 1}  # type: ignore[index]
    assert call("open", "t").body["nbgpu"]["limits"] == {}  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gpu": ["any"], "cpu": 1}, "exclude each other"),
        ({"gpu": ["H100:2", "A100"]}, "different numbers of GPUs"),
        ({"env": {"HF_TOKEN": "x"}}, "secret add HF_TOKEN"),
        ({"idle_stop": "soon"}, "--idle-stop never"),
        ({"idle_stop": "5s"}, "--idle-stop cannot be 5 s"),
        ({"max_cost": 0}, "--max-cost 5"),
        ({"memory": "much"}, "512MB, 8GB"),
        ({"port": ["http"]}, "'http' is no port"),
        ({"requirements": "/none.txt"}, "cannot be read"),
        ({"name": "Train It"}, "cannot be the name of a pod"),
    ],
)
def test_open_refuses_what_cannot_be_meant(options: dict[str, Any], said: str) -> None:
    with pytest.raises(errors.UsageProblem) as failure:
        call("open", **{"name": "train", **options})
    assert said in str(failure.value)


def test_open_waits_and_says_what_came_of_it(api: Api, shell: Any, capsys: Any) -> None:
    pod = run(shell, "%gpu open train --cpu 2 --idle-stop 30m --secret A --secret B,C")
    said = capsys.readouterr()
    assert "train is open, $0.36/h. Run a cell in it with: %%gpu run train" in said.out
    assert "It ends by itself at" in said.out and pod.state == "idle"
    assert api.bodies[0]["nbgpu"]["secrets"] == ["A", "B", "C"]
    run(shell, "%gpu open train --cpu 2 --idle-stop 30m")
    assert "train is already up" in capsys.readouterr().out
    run(shell, "%gpu open train --cpu 2 --idle-stop never")
    assert "limits.idleStopS 30 min → never" in capsys.readouterr().out
    html = shell.display_formatter.format(pod)[0]["text/html"]
    assert "bubblewrap: a home of its own &lt;and&gt;" in html and "/workspace" in html


def test_until_is_the_same_instant_when_the_cell_is_run_again(
    api: Api, shell: Any, capsys: Any
) -> None:
    run(shell, "%gpu open train --cpu 1 --until 8h")
    first = api.pods.pods["train"].n.limits.until_us
    run(shell, "%gpu open train --cpu 1 --until 8h")
    assert "is already up" in capsys.readouterr().out
    assert api.pods.pods["train"].n.limits.until_us == first
    run(shell, "%gpu open train --cpu 1 --until 9h")
    assert "train is changed: limits.untilUs" in capsys.readouterr().out


def test_an_interrupted_open_is_deleted_again(api: Api, shell: Any) -> None:
    interrupt_when(lambda: api.polls > 1)
    error = fails(shell, "%gpu open slow --cpu 1")
    assert isinstance(error, Interrupted)
    assert "slow, which this had created, is deleted again" in str(error)
    assert api.pods.pods == {}


def test_a_pod_that_fails_shows_the_end_of_its_log(api: Api, shell: Any) -> None:
    error = fails(shell, "%gpu open broken --cpu 1")
    assert isinstance(error, errors.OpenFailed)
    assert "pip could not install nonsense." in str(error)
    assert "No matching distribution" in str(error) and "%gpu start broken" in str(error)


# one name, pod or endpoint


def test_verbs_know_pods_and_endpoints(train: Any, api: Api, shell: Any, capsys: Any) -> None:
    run(shell, "%gpu deploy Org/M --name chat")
    assert type(run(shell, "%gpu show train")).__name__ == "Pod"
    assert type(run(shell, "%gpu show pod-train")).__name__ == "Pod"
    assert type(run(shell, "%gpu show chat")).__name__ == "Endpoint"
    assert list(run(shell, "%gpu ls")) == ["train", "chat"]
    assert list(run(shell, "%gpu ls pods")) == ["train"]
    assert list(run(shell, "%gpu ls pods").df["kernel"]) == ["none"]
    assert run(shell, "%gpu").text().startswith("1 pod · 1 endpoint · 1 worker")
    assert "train is" in run(shell, "%gpu why train").text()
    assert run(shell, "%gpu stop train").state == "stopped"
    assert run(shell, "%gpu start train").state == "idle"
    error = fails(shell, "%gpu stop trian")
    assert isinstance(error, NotFound) and "Did you mean train?" in str(error)
    error = fails(shell, "%%gpu run trian\n1")
    assert "There is no pod trian. Did you mean train?" in str(error)


def test_what_this_notebook_left_running_is_told(
    api: Api, shell: Any, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("JPY_SESSION_NAME", "day/one.ipynb")
    run(shell, "%gpu open train --cpu 1")
    assert "from this notebook: train runs, idle" in run(shell, "%gpu").text()
    monkeypatch.setenv("JPY_SESSION_NAME", "day/two.ipynb")
    assert "from this notebook" not in run(shell, "%gpu").text()


def test_delete_says_what_goes_and_asks(train: Any, api: Api, shell: Any, capsys: Any) -> None:
    Path(train.n.workspace, "model.pt").write_bytes(b"x" * 2000)
    done = shell.run_cell("%gpu delete train")
    text = "".join(capsys.readouterr())
    assert isinstance(done.error_in_exec, UsageError) and "train" in api.pods.pods
    assert (
        "its home and the packages installed in it, and its own volume, /workspace (2 kB in 1 file)"
        in text
    )
    assert "Add --yes, or --keep-volume --yes." in text
    said = run(shell, "%gpu delete train --keep-volume --yes").text()
    assert "train is deleted. Its /workspace is kept as the volume vol-1" in said
    assert api.pods.deleted == [("train", {"keepVolume": "true"})]


def test_stop_all_asks_too(train: Any, api: Api, shell: Any, capsys: Any) -> None:
    done = shell.run_cell("%gpu stop --all")
    assert isinstance(done.error_in_exec, UsageError) and train.n.state == "idle"
    assert "1 pod and 0 endpoints" in "".join(capsys.readouterr())
    assert run(shell, "%gpu stop --all --yes").text() == "Stopped: train."
    assert train.n.state == "stopped"
    assert "Stop what?" in str(fails(shell, "%gpu stop"))


def test_extend_and_port(train: Any, shell: Any, capsys: Any) -> None:
    run(shell, "%gpu extend train --for 2h")
    assert "train ends by itself at" in capsys.readouterr().out
    found = run(shell, "%gpu port train 6006")
    assert found.url == "http://127.0.0.1:41000/" and "Port 6006 of train" in found.text()
    assert found.proxied is None  # there is no Jupyter server around this shell


# run


def test_a_cell_runs_in_the_pod_and_its_state_stays(train: Any, shell: Any, capsys: Any) -> None:
    run(shell, "%%gpu run train\nimport os\nx = 6 * 7\nprint('hello {{x}}')\nf'{{x}}'")
    said = capsys.readouterr()
    assert "hello {{x}}\n" in said.out and "'{x}'" in said.out  # the cell is taken as it stands
    assert "[train · local · " in said.out and "$0.0" in said.out
    run(shell, "%gpu run train -c 'print(x, os.getcwd())'")
    assert f"42 {train.n.workspace}" in capsys.readouterr().out
    run(shell, "%%gpu run train\n!echo from the shell\n%who_ls int")
    assert "from the shell" in capsys.readouterr().out
    assert train.runs[0].label == "" and "x" not in shell.user_ns


def test_rich_output_goes_through_the_publisher(
    train: Any, shell: Any, capsys: Any, monkeypatch: Any
) -> None:
    published: list[dict[str, Any]] = []
    cleared: list[bool] = []

    class Publisher(type(shell.display_pub)):  # type: ignore[misc]
        def publish(self, data: Any, metadata: Any = None, **more: Any) -> None:
            published.append({"data": data, **more})

        def clear_output(self, wait: bool = False) -> None:
            cleared.append(wait)

    shell.display_pub = Publisher(shell=shell)
    run(shell, "%%gpu run train\nfrom IPython.display import HTML, display, clear_output\n"
               "h = display(HTML('<b>1</b>'), display_id='d')\nh.update(HTML('<b>2</b>'))\n"
               "clear_output(wait=True)\nHTML('<i>3</i>')")  # fmt: skip
    htmls = [p["data"].get("text/html") for p in published]
    assert htmls[:3] == ["<b>1</b>", "<b>2</b>", "<i>3</i>"] and cleared == [True]
    assert [p["update"] for p in published[:2]] == [False, True]
    assert published[0]["transient"]["display_id"] == "d" == published[1]["transient"]["display_id"]


def test_an_exception_there_is_shown_and_fails_the_cell_in_one_line(
    train: Any, shell: Any, capsys: Any
) -> None:
    error = fails(shell, "%%gpu run train\nprint('before')\n1 / 0")
    said = capsys.readouterr()
    assert isinstance(error, RunFailed) and error.ename == "ZeroDivisionError"
    trace = ANSI.sub("", said.err)
    assert "before" in said.out and "ZeroDivisionError" in trace and "1 / 0" in trace
    assert "RunFailed: in train: ZeroDivisionError: division by zero" in said.out + said.err
    run(shell, "%%gpu run train\nprint('goes on')")


def test_input_is_asked_for_here(train: Any, shell: Any, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("builtins.input", lambda prompt: f"an answer to {prompt}")
    run(shell, "%%gpu run train\nprint(input('who? '))")
    assert "an answer to who? " in capsys.readouterr().out
    monkeypatch.setattr(getpass, "getpass", lambda prompt: "unseen")
    run(shell, "%%gpu run train\nimport getpass\nprint(len(getpass.getpass('key: ')))")
    assert "6" in capsys.readouterr().out


def test_where_nobody_can_answer_the_run_is_interrupted(
    train: Any, shell: Any, monkeypatch: Any
) -> None:
    def nobody(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", nobody)
    error = fails(shell, "%%gpu run train\ninput('who? ')")
    assert "it asks for input (who?), and nobody can be asked here" in str(error)
    assert until(lambda: train.runs[-1].state == "interrupted")


def test_an_interrupt_interrupts_the_kernel_there(train: Any, shell: Any, capsys: Any) -> None:
    interrupt_when(
        lambda: any("on it" in str(o.content) for o in train.outputs if o.type == "stream")
    )
    error = fails(
        shell, "%%gpu run train\nimport time\nprint('on it', flush=True)\ntime.sleep(600)"
    )
    assert isinstance(error, Interrupted)
    assert "interrupted; it is stopped in train, after" in str(error)
    assert train.runs[-1].state == "interrupted"
    assert "KeyboardInterrupt" in capsys.readouterr().err


def test_a_connection_that_breaks_costs_no_output(
    train: Any, api: Api, shell: Any, capsys: Any
) -> None:
    api.pods.cut_after = [3, 10, 0, 40]
    run(
        shell,
        "%%gpu run train\nimport time\nfor i in range(100):\n    print(i, flush=True)\n    time.sleep(0.01)",
    )
    lines = capsys.readouterr().out.split("[train")[0].split()
    assert lines == [str(i) for i in range(100)] and not api.pods.cut_after


def test_a_pod_that_ends_meanwhile_is_not_waited_for(
    train: Any, api: Api, shell: Any, monkeypatch: Any
) -> None:
    ends = threading.Thread(
        target=lambda: (
            until(lambda: any(o.type == "stream" for o in train.outputs)),
            asyncio.run_coroutine_threadsafe(api.pods.cut_off(train), api.loop).result(20),
        )
    )
    ends.start()
    error = fails(
        shell, "%%gpu run train\nimport time\nprint('on it', flush=True)\ntime.sleep(600)"
    )
    ends.join()
    assert isinstance(error, errors.ServiceError) and "%gpu start train" in str(error)


def letters(text: str) -> list[str]:
    """Lines that are one letter: what the cells have printed, without our own lines."""
    return [line for line in text.splitlines() if len(line) == 1]


def test_a_run_in_the_background_is_attached_to(train: Any, shell: Any, capsys: Any) -> None:
    handle = run(
        shell,
        "%%gpu run train --background --label slow\nimport time\nprint('a')\ntime.sleep(0.5)\nprint('b')",
    )
    assert handle.state in ("queued", "running")
    assert "Follow it with: %gpu attach train" in handle.text()
    capsys.readouterr()
    run(shell, "%gpu attach train")
    said = capsys.readouterr()
    assert "'slow', asked for at" in said.out.splitlines()[0]
    assert letters(said.out) == ["a", "b"]
    assert handle.wait(20).output() == "a\nb\n" and handle.state == "ok"
    run(shell, "%gpu attach train")  # again, all of it
    assert letters(capsys.readouterr().out) == ["a", "b"]
    run(shell, "%%gpu run train\nprint('c')")
    capsys.readouterr()
    run(shell, "%gpu attach train --all")
    assert letters(capsys.readouterr().out) == ["a", "b", "c"]


def test_values_go_and_come(train: Any, shell: Any, capsys: Any) -> None:
    import numpy

    shell.user_ns.update(frame=numpy.arange(200_000, dtype="float64"), small={"a": [1]})
    run(
        shell,
        "%%gpu run train --send frame,small --get total --get doubled\ntotal = frame.sum()\ndoubled = frame * 2; small['a']",
    )
    said = capsys.readouterr().out
    assert shell.user_ns["total"] == 19_999_900_000 and shell.user_ns["doubled"][3] == 6.0
    assert "frame, small: 1.6 MB to train" in said and "doubled: 1.6 MB from train" in said
    assert "total:" not in said
    done = shell.run_cell("%%gpu run train --send fram\n1")
    assert isinstance(done.error_in_exec, UsageError)
    text = "".join(capsys.readouterr())
    assert "fram cannot be sent, because it is not defined here. Did you mean frame?" in text
    told: list[str] = []
    pod = Client(say=told.append).pod("train")
    assert pod.fetch("doubled", limit=1000) is None
    assert "still on the pod as doubled" in told[0]
    pod.send(y=3)
    assert pod.fetch("y + 1") == 4


def test_a_pod_that_does_not_run_says_how_to_start_it(train: Any, shell: Any) -> None:
    run(shell, "%gpu stop train")
    error = fails(shell, "%%gpu run train\n1")
    assert "train is stopped: You stopped it. Start it with: %gpu start train" in str(error)


def test_kernel_says_how_it_is_done_by_hand(train: Any, api: Api, shell: Any) -> None:
    said = run(shell, "%gpu kernel train").text()
    assert (
        "jupyter console --kernel nbgpu-train" in said and f"JUPYTER_PATH={api.home.root}" in said
    )


def test_ssh_in_a_notebook_says_where(train: Any, shell: Any) -> None:
    assert "nbgpu ssh train" in run(shell, "%gpu ssh train").text()


# files


def test_files_go_and_come(train: Any, shell: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "src"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.py").write_text("a")
    (folder / "deep" / "b.sh").write_text("b")
    (folder / "deep" / "b.sh").chmod(0o755)
    assert "2 files, 2 B" in run(shell, "%gpu put train src code").text()
    there = Path(train.n.workspace, "code")
    assert (there / "deep" / "b.sh").read_text() == "b"
    assert (there / "deep" / "b.sh").stat().st_mode & 0o777 == 0o755
    assert "2 there already" in run(shell, "%gpu put train src code").text()
    (folder / "a.py").write_text("new")
    assert "3 B, 1 there already" in run(shell, "%gpu put train src code").text()
    assert "2 files" in run(shell, "%gpu get train code back").text()
    assert (tmp_path / "back/a.py").read_text() == "new"
    assert (tmp_path / "back/deep/b.sh").stat().st_mode & 0o777 == 0o755
    error = fails(shell, "%gpu get train nothing")
    assert "There is no nothing in train." in str(error)
    assert "There is no none here." in str(fails(shell, "%gpu put train none"))


def test_a_broken_transfer_goes_on_where_it_was(
    train: Any, api: Api, shell: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    data = os.urandom(6_000_000)
    (tmp_path / "m.bin").write_bytes(data)
    api.pods.break_file = [2_000_000]
    run(shell, "%gpu put train m.bin")
    there = Path(train.n.workspace)
    assert (there / "m.bin").read_bytes() == data and not (there / ".m.bin.part").exists()
    api.pods.break_file = [2_500_000]
    moved = run(shell, "%gpu get train m.bin back.bin").facts["bytes"]
    assert (tmp_path / "back.bin").read_bytes() == data and moved < 6_000_000
    # a part of an older version is found out by the hash
    (there / ".n.bin.part").write_bytes(b"old" * 1000)
    (tmp_path / "n.bin").write_bytes(data)
    run(shell, "%gpu put train n.bin")
    assert (there / "n.bin").read_bytes() == data


@pytest.mark.parametrize("below", ["../x", "/etc/passwd", "a/../../x", ""])
def test_a_pod_cannot_write_outside_of_the_folder(below: str) -> None:
    from nbgpu.podfiles import safe

    with pytest.raises(errors.TransferFailed):
        safe(below)


# volumes and secrets


def test_volumes(api: Api, shell: Any, capsys: Any) -> None:
    assert "No volume." in run(shell, "%gpu volume ls").text()
    assert "%gpu open NAME --volume data" in run(shell, "%gpu volume add data --size 5").text()
    assert list(run(shell, "%gpu volume").df["size_gb"]) == [5]
    assert "Did you mean data?" in str(fails(shell, "%gpu volume rm dta --yes"))
    assert isinstance(fails(shell, "%gpu volume rm data"), UsageError)
    assert "goes all that is in it (1 kB)" in "".join(capsys.readouterr())
    run(shell, "%gpu volume rm data --yes")
    assert not api.pods.volumes


def test_a_secret_is_typed_unseen_and_never_shown(
    api: Api, shell: Any, capsys: Any, monkeypatch: Any
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr(getpass, "getpass", lambda prompt: "hf_very_secret")
    said = run(shell, "%gpu secret add HF_TOKEN").text()
    assert api.pods.secrets == {"HF_TOKEN": "hf_very_secret"}
    listing = run(shell, "%gpu secret ls")
    assert list(listing) == ["HF_TOKEN"] and "very" not in said + listing.text()
    assert "Name only" in "".join([str(fails(shell, "%gpu secret add A=b")), *capsys.readouterr()])
    run(shell, "%gpu secret rm HF_TOKEN")
    assert not api.pods.secrets


# the overview


def test_the_overview_shows_what_exists(shell: Any) -> None:
    page = str(run(shell, "%gpu help"))
    head = page.split("\n\n")[0].splitlines()
    verbs_shown = [line.split()[1] for line in head]
    assert verbs_shown == ["open", "run", "deploy", "ask", "why", "ls", "stop", "delete"]
    assert head[1].startswith("%%gpu run NAME")
