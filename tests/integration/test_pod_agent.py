"""A pod's agent with a real kernel: cells, their output, and how a kernel ends and begins."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import stat
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient

from tests.support.pod_agent import Json, Pod, Refused, pod, status_of, text_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pods run on Linux")


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Pod]:
    async with pod(tmp_path / "p") as made:
        yield made


@contextlib.asynccontextmanager
async def notebook(there: Pod) -> AsyncIterator[AsyncKernelClient]:
    """What a Jupyter server is to the kernel: another client of its sockets."""
    connection = (await there.kernel("start"))["connection"]
    client = AsyncKernelClient()
    client.load_connection_info({**connection, "ip": f"{there.run_dir}/k"})
    assert len(f"{there.run_dir}/k-1") < 107
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=30)
        yield client
    finally:
        client.stop_channels()


# the socket


async def test_the_socket_is_its_users_alone_and_takes_what_is_no_request(there: Pod) -> None:
    assert stat.S_IMODE((there.run_dir / "agent").stat().st_mode) == 0o600
    for sent, kind in [
        (b"nonsense\n", "bad_request"),
        (b"[1]\n", "bad_request"),
        (b'{"op": "dance"}\n', "bad_request"),
        (b'{"op": ["status"]}\n', "bad_request"),
        (b'{"op": "run"}\n', "bad_request"),
        (b'{"op": "run", "id": "cell-1", "code": ""}\n', "bad_request"),
        (b'{"op": "output", "run": "run-none12"}\n', "not_found"),
        (b'{"op": "kernel", "action": "fly"}\n', "bad_request"),
        (b'{"op": "kernel", "action": "interrupt"}\n', "conflict"),
        (b'{"op": "input", "run": "x", "value": ""}\n', "not_found"),
        (b'{"op": "get", "path": "none"}\n', "not_found"),
        (b'{"op": "forward", "port": 0}\n', "bad_request"),
        (b"\xff\xfe\n", "bad_request"),
    ]:
        connection = await there.connect()
        connection.writer.write(sent)
        with pytest.raises(Refused) as refused:
            await connection.line()
        assert refused.value.kind == kind, sent
        connection.close()
    assert (await there.ask("status"))["kernel"]["state"] == "none"
    assert "fault" not in there.log()


async def test_two_hundred_connections_at_once(there: Pod) -> None:
    async with asyncio.timeout(20):
        answers = await asyncio.gather(*(there.ask("status") for _ in range(200)))
    assert {answer["kernel"]["state"] for answer in answers} == {"none"}


# cells


async def test_a_cell_and_all_that_is_told_of_it(there: Pod) -> None:
    code = "import os\nprint(os.getcwd(), 'NBGPU_AGENT' in os.environ)\n6 * 7"
    items = await there.done("run-first1", code, label="look", by="run")
    assert [item["type"] for item in items] == [
        "run_started",
        "execute_input",
        "stream",
        "execute_result",
        "run_ended",
    ]
    assert items[0]["content"]["label"] == "look"
    assert items[1]["content"]["code"] == code
    assert text_of(items) == f"{there.workspace} False\n"
    assert items[3]["content"]["data"]["text/plain"] == "42"
    assert items[4]["content"]["status"] == "ok" and 0 < items[4]["content"]["seconds"] < 30
    [run] = (await there.ask("runs"))["runs"]
    assert run["n"] == items[0]["n"] and run["state"] == "ok" and run["by"] == "run"
    assert run["asked_us"] <= run["began_us"] <= run["ended_us"]
    status = await there.ask("status")
    assert status["run"] == run and status["seq"] == items[-1]["n"] and status["first"] == 1
    assert status["kernel"]["state"] == "idle" and status["kernel"]["generation"] == 1
    assert status["kernel"]["connection"] is None


async def test_the_same_id_runs_once(there: Pod) -> None:
    for _ in range(3):
        await there.run("run-once12", "n = globals().get('n', 0) + 1")
    assert text_of(await there.done("run-look12", "print(n)")) == "1\n"
    assert len((await there.ask("runs"))["runs"]) == 2


async def test_cells_run_in_the_order_they_were_asked_for_and_a_failed_one_stops_no_other(
    there: Pod,
) -> None:
    await there.run("run-00000a", "l = [0]")
    await there.run("run-00000b", "l.append(1); 1/0")
    await there.run("run-00000c", "l.append(2)")
    assert text_of(await there.done("run-00000d", "print(l)")) == "[0, 1, 2]\n"
    assert [run["state"] for run in (await there.ask("runs"))["runs"]] == [
        "ok",
        "error",
        "ok",
        "ok",
    ]
    items = await there.output(run="run-00000b")
    assert items[-2]["content"]["ename"] == "ZeroDivisionError" and status_of(items) == "error"


async def test_a_reader_that_breaks_off_again_and_again_misses_nothing(there: Pod) -> None:
    code = "import time\nfor i in range(1, 301):\n    print(i, flush=True)\n    time.sleep(0.01)"
    await there.run("run-count1", code)
    rng = random.Random(1)
    items: list[Json] = []
    ended = False
    for attempt in range(60):
        since = items[-1]["n"] if items else 0
        connection = await there.open("output", since=since, run="run-count1")
        most = rng.randrange(1, 5) if attempt < 10 else 10_000
        async for item in connection.items():
            items.append(item)
            ended = item["type"] == "run_ended"
            most -= 1
            if not most:
                break
        connection.close()
        if ended:
            break
    assert attempt >= 10
    assert [item["n"] for item in items] == sorted({item["n"] for item in items})
    assert text_of(items).split() == [str(i) for i in range(1, 301)]


async def test_everything_is_followed_by_number(there: Pod) -> None:
    connection = await there.open("output", since=0)
    await there.done("run-00000a", "print('é\\n\\u2028', 1)")
    await there.done("run-00000b", "import sys; print(2, file=sys.stderr)")
    seen = []
    async for item in connection.items():
        seen.append(item)
        if item["type"] == "run_ended" and item["run"] == "run-00000b":
            break
    connection.close()
    assert [item["n"] for item in seen] == list(range(1, len(seen) + 1))
    assert text_of(seen) == "é\n\u2028 1\n" and text_of(seen, "stderr") == "2\n"
    assert await there.output(since=seen[-1]["n"], follow=False) == []
    assert await there.output(since=3, follow=False) == seen[3:]
    # asked for again from behind its end: closed at once
    assert await there.output(since=seen[-1]["n"], run="run-00000b") == []


async def test_a_display_with_buffers_and_awkward_text(there: Pod) -> None:
    text = 'quotes " \\ \\" \x00 \r\n end\\'
    items = await there.done("run-awkwar", f"for _ in range(50): print({text!r}, flush=True)")
    assert text_of(items) == (text + "\n") * 50
    code = (
        "from comm import create_comm\n"
        "create_comm(target_name='t', data={'a': 1}, buffers=[b'\\x00\\xff']);"
    )
    [opened] = [x for x in await there.done("run-buffer", code) if x["type"] == "comm_open"]
    assert opened["buffers"] == ["AP8="] and opened["content"]["data"] == {"a": 1}


async def test_input_is_asked_for_and_given(there: Pod) -> None:
    code = (
        "print('before'); a = input('name? '); import getpass; b = getpass.getpass(); print(a, b)"
    )
    await there.run("run-input1", code)
    connection = await there.open("output", run="run-input1")
    answers = iter(["Ada", "secret"])
    items = []
    async for item in connection.items():
        items.append(item)
        if item["type"] == "input_request":
            await there.ask("input", run="run-input1", value=next(answers))
    connection.close()
    asked = [item["content"] for item in items if item["type"] == "input_request"]
    assert asked[0] == {"prompt": "name? ", "password": False} and asked[1]["password"] is True
    assert text_of(items[: items.index(next(x for x in items if x["type"] == "input_request"))])
    assert text_of(items) == "before\nAda secret\n"
    with pytest.raises(Refused, match="does not wait") as refused:
        await there.ask("input", run="run-input1", value="late")
    assert refused.value.kind == "conflict"


@pytest.mark.parametrize(
    "code",
    [
        "print('on', flush=True)\nimport time; time.sleep(100)",
        "print('on', flush=True)\n! sleep 100",
        "print('on', flush=True)\nimport asyncio; await asyncio.sleep(100)",
        "print('on', flush=True)\ninput()",
        "print('on', flush=True)\n%pip download --no-deps --index-url http://10.255.255.1/ nothing",
    ],
)
async def test_a_cell_is_interrupted(there: Pod, code: str) -> None:
    await there.run("run-sleep1", code)
    connection = await there.open("output", run="run-sleep1")
    async for item in connection.items():
        if item["type"] == "stream" and "on" in item["content"]["text"]:
            break
    await asyncio.sleep(0.5 if "!" in code or "%" in code else 0.05)  # until the command runs
    began = time.monotonic()
    await there.kernel("interrupt")
    rest = [item async for item in connection.items(within=20)]
    connection.close()
    assert time.monotonic() - began < 10
    # `!` and %pip: the interrupt is the command's alone
    assert status_of(rest) in (
        ("interrupted",) if "!" not in code and "%" not in code else ("interrupted", "ok")
    )
    assert text_of(await there.done("run-after1", "print('alive')")) == "alive\n"
    assert (await there.ask("status"))["kernel"]["generation"] == 1


# notebooks


async def test_what_a_notebook_runs_is_a_run_too(there: Pod) -> None:
    async with notebook(there) as client:
        names = []
        for n in range(3):
            reply = await client.execute_interactive(f"print('cell', {n})", timeout=30)
            assert reply["content"]["status"] == "ok"
            names.append(reply["parent_header"]["msg_id"])
        await client.execute_interactive("1/0", timeout=30, allow_stdin=False)
        runs = await there.until("four runs", lambda: _ended(there, 4))
        assert [run["by"] for run in runs] == ["notebook"] * 4
        assert [run["state"] for run in runs] == ["ok", "ok", "ok", "error"]
        assert len({run["id"] for run in runs}) == 4
        assert runs[0]["id"] == "cell-" + names[0][:12]
        for n, run in enumerate(runs[:3]):
            assert text_of(await there.output(run=run["id"])) == f"cell {n}\n"


async def _ended(there: Pod, count: int) -> list[Json]:
    runs = list((await there.runs()).values())
    return runs if len([run for run in runs if run["ended_us"]]) == count else []


async def test_a_notebook_sees_what_was_run_and_its_input_is_its_own(there: Pod) -> None:
    async with notebook(there) as client:
        await there.done("run-mine12", "x = 5")
        reply = await client.execute_interactive(
            "assert x == 5; y = input()",
            timeout=30,
            stdin_hook=lambda _: client.input("from the notebook"),
        )
        assert reply["content"]["status"] == "ok"
        items = await there.done("run-mine13", "print(y)")
        assert text_of(items) == "from the notebook\n"
        everything = await there.output(follow=False)
        assert not [item for item in everything if item["type"] == "input_request"]


async def test_a_notebook_lives_through_a_restart(there: Pod) -> None:
    async with notebook(there) as client:
        before = await there.kernel("start")
        after = await there.kernel("restart")
        assert after["connection"] == before["connection"]
        assert after["generation"] == before["generation"] + 1 and after["pid"] != before["pid"]
        assert await _answers(client)


async def _answers(client: Any) -> bool:
    """Its subscription is made again a moment after the kernel is: what was said before that is lost."""
    for _ in range(10):
        try:
            reply = await client.execute_interactive("print('again')", timeout=3)
            return bool(reply["content"]["status"] == "ok")
        except TimeoutError:
            continue
    return False


async def test_much_output_of_a_notebook_is_all_kept(there: Pod) -> None:
    count = 20_000
    async with notebook(there) as client:
        code = f"import sys\nfor i in range({count}):\n    print('%08d' % i + 'x' * 91); sys.stdout.flush()"
        client.execute(code)  # it reads nothing itself: who is slow loses messages
        [run] = await there.until("its end", lambda: _ended(there, 1), 120)
    items = await there.output(run=run["id"])
    assert text_of(items) == "".join(f"{i:08d}{'x' * 91}\n" for i in range(count))
    assert len(items) < count / 4  # joined


# the kernel's end and beginning


async def test_a_kernel_that_is_killed_is_told_and_replaced_at_the_next_run(there: Pod) -> None:
    await there.done("run-before", "x = 1")
    code = (
        "print('last words', flush=True)\nimport os, signal, time\n"
        "time.sleep(0.3)  # its output is sent by a thread\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    items = await there.done("run-killed", code)
    assert status_of(items) == "died" and text_of(items) == "last words\n"
    status = await there.ask("status")
    assert status["kernel"]["state"] == "dead" and status["kernel"]["pid"] is None
    assert status["busy"] is False
    items = await there.done("run-next12", "print('x' in globals())")
    assert text_of(items) == "False\n"
    everything = await there.output(follow=False)
    kernel = [item for item in everything if item["type"] == "kernel"]
    assert [item["content"]["state"] for item in kernel] == ["idle", "dead", "idle"]
    assert "SIGKILL" in kernel[1]["content"]["text"]
    assert kernel[2]["n"] < items[0]["n"]
    assert (await there.ask("status"))["kernel"]["generation"] == 2


async def test_a_restart_ends_what_runs(there: Pod) -> None:
    await there.run(
        "run-long12",
        "import time\nwhile True:\n    try: time.sleep(100)\n    except BaseException: pass",
    )
    await there.until("it runs", lambda: _state(there, "run-long12", "running"))
    await there.kernel("restart")
    assert (await there.runs())["run-long12"]["state"] == "died"
    assert text_of(await there.done("run-next12", "print(1)")) == "1\n"


async def _state(there: Pod, name: str, state: str) -> bool:
    return bool((await there.runs())[name]["state"] == state)


async def test_a_kernel_that_cannot_start_says_why_and_is_not_tried_again_and_again(
    there: Pod,
) -> None:
    startup = there.home / ".ipython" / "profile_default"
    startup.mkdir(parents=True)
    (startup / "ipython_config.py").write_text(
        "import os; os.write(2, b'broken config'); os._exit(3)"
    )
    with pytest.raises(Refused, match="broken config") as refused:
        await there.kernel("start")
    assert refused.value.kind == "kernel" and "exit code 3" in str(refused.value)
    assert status_of(await there.done("run-failed", "1")) == "died"
    await asyncio.sleep(0.5)
    status = await there.ask("status")
    assert status["kernel"]["state"] == "dead" and status["kernel"]["generation"] == 2
    (startup / "ipython_config.py").unlink()
    assert status_of(await there.done("run-works1", "1")) == "ok"


async def test_stop_and_signal_of_the_kernel(there: Pod) -> None:
    await there.kernel("start")
    assert (await there.kernel("stop"))["state"] == "none"
    with pytest.raises(Refused):
        await there.kernel("signal", signum=15)
    await there.kernel("start")
    await there.kernel("signal", signum=int(signal.SIGKILL))
    await there.until("it is dead", lambda: _kernel(there, "dead"))
    assert (await there.kernel("start"))["state"] == "idle"


async def _kernel(there: Pod, state: str) -> bool:
    return bool((await there.ask("status"))["kernel"]["state"] == state)


async def test_the_kernel_dies_with_the_agent(there: Pod) -> None:
    pid = (await there.kernel("start"))["pid"]
    assert there.process is not None
    there.process.send_signal(signal.SIGKILL)
    await there.code_of_exit()

    async def gone() -> bool:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
        return True

    await there.until("the kernel is gone", gone)


async def test_output_and_numbers_survive_the_agent(there: Pod) -> None:
    before = await there.done("run-before", "print('kept')")
    key = (await there.kernel("start"))["connection"]["key"]
    await there.run("run-open12", "import time; time.sleep(100)")
    await there.until("it runs", lambda: _state(there, "run-open12", "running"))
    await there.close()
    [segment] = (there.run_dir / "spool").iterdir()
    whole = segment.read_bytes()
    segment.write_bytes(whole + b'{"n":999,"run":"run-be')  # a torn line
    async with pod(there.folder) as again:
        assert await again.output(run="run-before") == before
        open_items = await again.output(run="run-open12")
        assert status_of(open_items) == "died"
        last = json.loads(whole.splitlines()[-1])["n"]
        assert open_items[-1]["n"] == last + 1
        items = await again.done("run-after1", "print('new')")
        assert items[0]["n"] > last and text_of(items) == "new\n"
        assert (await again.kernel("start"))["connection"]["key"] == key
        assert list(await again.runs()) == ["run-before", "run-open12", "run-after1"]


async def test_the_oldest_output_is_dropped_and_said_so(tmp_path: Path) -> None:
    async with pod(tmp_path / "p", spool_bytes=1 << 20) as there:
        code = "for i in range(40): print(str(i) + 'x' * 100_000, flush=True)"
        items = await there.done("run-large1", code)
        assert status_of(items) == "ok"
        folder = there.run_dir / "spool"
        assert sum(file.stat().st_size for file in folder.iterdir()) < 1.3 * (1 << 20)
        status = await there.ask("status")
        assert status["first"] > 10
        again = await there.output(run="run-large1")
        assert again[0]["type"] == "gap" and again[0]["content"]["last"] == status["first"] - 1
        assert again[0]["n"] == status["first"] - 1 and status_of(again) == "ok"
        assert "39x" in text_of(again)


async def test_a_client_that_reads_nothing_costs_no_memory(there: Pod) -> None:
    assert there.process is not None
    await there.done("run-small1", "print('x' * 1000)")
    idle = [await there.open("output", since=0) for _ in range(20)]
    before = _rss(there.process.pid)
    code = "for i in range(400): print('y' * 100_000, flush=True)"
    await there.done("run-large1", code)
    assert _rss(there.process.pid) - before < 60 << 20
    for connection in idle:
        connection.close()


def _rss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(pid)


async def test_many_runs(there: Pod) -> None:
    for n in range(600):
        await there.run(f"run-n{n:05d}", f"last = {n}")
    assert text_of(await there.done("run-last12", "print(last)")) == "599\n"
    runs = (await there.ask("runs"))["runs"]
    assert len(runs) == 200 and runs[-1]["id"] == "run-last12"
    assert {run["state"] for run in runs} == {"ok"}


# the end


async def test_stop_runs_before_stop_and_ends_in_time(tmp_path: Path) -> None:
    command = "pwd > before; echo said >&2"
    async with pod(tmp_path / "p", before_stop=command, grace_s=5) as there:
        await there.run("run-long12", "import time; time.sleep(100)")
        await there.until("it runs", lambda: _state(there, "run-long12", "running"))
        follower = await there.open("output", run="run-long12")
        began = time.monotonic()
        assert await there.ask("stop", grace_s=4) == {}
        with contextlib.suppress(Refused, OSError), pytest.raises(Refused):
            await there.kernel("start")
        items = [item async for item in follower.items()]
        assert status_of(items) == "died"
        assert await there.code_of_exit() == 0
        assert time.monotonic() - began < 4.5
        assert (there.workspace / "before").read_text().strip() == str(there.workspace)
        assert "said" in there.log()


async def test_sigterm_ends_a_stubborn_pod_within_its_grace(tmp_path: Path) -> None:
    async with pod(tmp_path / "p", before_stop="sleep 100", grace_s=2) as there:
        code = "import time\nwhile True:\n    try: time.sleep(100)\n    except BaseException: pass"
        await there.run("run-long12", code)
        await there.until("it runs", lambda: _state(there, "run-long12", "running"))
        began = time.monotonic()
        assert there.process is not None
        there.process.send_signal(signal.SIGTERM)
        assert await there.code_of_exit() == 0
        assert time.monotonic() - began < 3
        assert "before_stop was not done" in there.log()
