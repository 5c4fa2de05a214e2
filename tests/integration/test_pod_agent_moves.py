"""What a pod's agent moves: files, values, terminals, ports; whether the pod is in use; sandboxes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from nbgpu_backend.schema import parcel

from tests.support.pod_agent import PYTHON, Connection, Pod, Refused, pod, status_of, text_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pods run on Linux")


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Pod]:
    async with pod(tmp_path / "p") as made:
        yield made


# files


async def test_a_file_goes_in_and_out(there: Pod) -> None:
    data = os.urandom(3_000_001)
    digest = hashlib.sha256(data).hexdigest()
    info = await there.ask(
        "put", data, path="a/b.bin", size=len(data), offset=0, mode=0o750, sha256=digest
    )
    assert info["exists"] and info["size"] == len(data) and info["mode"] == 0o750
    assert info["path"] == "a/b.bin" and info["part"] == 0
    assert (there.workspace / "a" / "b.bin").read_bytes() == data
    head, body = await there.get("get", path="a/b.bin", offset=0)
    assert body == data and head["size"] == len(data) and head["mode"] == 0o750
    _, rest = await there.get("get", path=str(there.workspace / "a/b.bin"), offset=3_000_000)
    assert rest == data[-1:]
    assert (await there.ask("stat", path="a/b.bin", hash=True))["sha256"] == digest
    for request in ({"path": "a"}, {"path": "a/b.bin", "offset": 9_000_000}, {"path": "none"}):
        with pytest.raises(Refused):
            await there.ask("get", **request)
    assert (await there.ask("put", b"", path="empty", size=0, offset=0))["size"] == 0


async def test_a_broken_transfer_is_resumed(there: Pod) -> None:
    data = os.urandom(2_000_000)
    digest = hashlib.sha256(data).hexdigest()
    (there.workspace / "x").write_bytes(b"the old one")
    first = await there.open("put", data[:700_000], path="x", size=len(data), offset=0)
    await first.writer.drain()
    first.writer.write_eof()
    with pytest.raises(Refused, match="broke off") as refused:
        await first.line()
    assert refused.value.kind == "io"
    first.close()
    info = await there.ask("stat", path="x")
    assert info["part"] == 700_000 and info["size"] == 11  # what was there is there
    with pytest.raises(Refused) as refused:
        await there.ask("put", b"", path="x", size=len(data), offset=5)
    assert refused.value.kind == "conflict" and refused.value.answer["part"] == 700_000
    rest = await there.ask(
        "put", data[700_000:], path="x", size=len(data), offset=700_000, sha256=digest
    )
    assert rest["size"] == len(data) and rest["part"] == 0
    assert (there.workspace / "x").read_bytes() == data


async def test_a_damaged_transfer_is_refused_and_leaves_nothing(there: Pod) -> None:
    with pytest.raises(Refused, match="damaged") as refused:
        await there.ask("put", b"abc", path="x", size=3, offset=0, sha256="0" * 64)
    assert refused.value.kind == "bad_request"
    assert list(there.workspace.iterdir()) == []


async def test_a_client_that_vanishes_leaves_its_part(there: Pod) -> None:
    connection = await there.open("put", b"x" * 1000, path="y", size=5000, offset=0)
    await connection.writer.drain()

    async def part() -> bool:
        return bool((await there.ask("stat", path="y"))["part"] in (0, 1000))

    await there.until("it came", part)
    connection.close()

    async def free() -> bool:
        with contextlib.suppress(Refused):
            size = (await there.ask("stat", path="y"))["part"]
            await there.ask("put", b"y" * (5000 - size), path="y", size=5000, offset=size)
            return True
        return False

    await there.until("the transfer is given up", free)
    assert (there.workspace / "y").read_bytes() == b"x" * 1000 + b"y" * 4000


async def test_folders_are_made_and_listed(there: Pod) -> None:
    assert (await there.ask("mkdir", path="d/e"))["folder"]
    (there.workspace / "d" / "e" / "f.txt").write_text("hi")
    (there.workspace / "top").write_text("x")
    (there.workspace / "lost").symlink_to("nowhere")
    listed = await there.ask("list", path=".", recursive=True)
    assert [file["path"] for file in listed["files"]] == ["d", "lost", "top", "d/e", "d/e/f.txt"]
    assert listed["truncated"] is False
    assert [x["path"] for x in (await there.ask("list", path="d"))["files"]] == ["d/e"]
    absolute = await there.ask("list", path=str(there.home))
    assert all(file["path"].startswith(str(there.home)) for file in absolute["files"])
    assert [x["path"] for x in (await there.ask("list", path="top"))["files"]] == ["top"]
    with pytest.raises(Refused) as refused:
        await there.ask("list", path="none")
    assert refused.value.kind == "not_found"
    for n in range(10_050):
        (there.home / f"{n:06d}").touch()
    for recursive in (False, True):
        many = await there.ask("list", path=str(there.home), recursive=recursive)
        assert len(many["files"]) == 10_000 and many["truncated"] is True


# values


async def send(there: Pod, **values: Any) -> Any:
    parts = parcel.pack(values)
    body = b"".join(parts)
    return await there.ask("send", body, names=list(values), size=len(body))


async def fetch(there: Pod, name: str, limit: int = 256_000_000) -> tuple[Any, Any]:
    """(the answer, the value)"""
    head, body = await there.get("fetch", name=name, limit=limit)
    assert len(body) == (0 if head["kept"] else head["size"])
    return head, None if head["kept"] else parcel.unpack(bytearray(body))[name]


async def test_an_array_goes_in_and_comes_out(there: Pod) -> None:
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    if sys.executable != PYTHON:
        pytest.skip("the pod's numpy may be of another version")
    array = numpy.random.default_rng(1).random((1250, 1000))  # 10 MB
    answer = await send(there, weights=array, n=3)
    assert answer["names"] == ["weights", "n"] and answer["size"] > 10_000_000
    items = await there.done("run-double", "weights *= 2; print(weights.shape, n, type(weights))")
    assert text_of(items) == "(1250, 1000) 3 <class 'numpy.ndarray'>\n"
    head, value = await fetch(there, "weights")
    assert head["type"] == "numpy.ndarray" and head["kept"] is False and head["text"] == ""
    assert numpy.array_equal(value, array * 2)
    value[0, 0] = 1.0  # it can be written to
    assert list((there.run_dir / "parcels").iterdir()) == []
    assert (await fetch(there, "weights.mean() > 0.5"))[1]


async def test_what_is_too_large_or_cannot_go_stays_and_is_told(there: Pod) -> None:
    await there.done("run-values", "big = b'x' * 12_345_678; lock = __import__('threading').Lock()")
    head, _ = await fetch(there, "big", limit=1_000_000)
    assert head["kept"] and head["text"] == "12.3 MB, still on the pod as big"
    assert head["type"] == "bytes" and head["size"] == 12_345_678
    head, _ = await fetch(there, "[big]", limit=1_000_000)
    assert head["kept"] and head["text"].startswith("more than 1.0 MB")
    head, _ = await fetch(there, "lock")
    assert head["kept"] and "pickle" in head["text"]
    for wrong, said in [("nothing", "NameError"), ("1 +", "SyntaxError"), ("1/0", "ZeroDivision")]:
        with pytest.raises(Refused, match=said):
            await fetch(there, wrong)
    assert text_of(await there.done("run-alive1", "print(len(big), 'path' in dir())")) == (
        "12345678 False\n"
    )


async def test_a_missing_module_is_named(there: Pod) -> None:
    import types

    module = types.ModuleType("not_in_the_pod")
    kind = type("Thing", (), {"__module__": "not_in_the_pod"})
    module.Thing = kind  # type: ignore[attr-defined]
    sys.modules["not_in_the_pod"] = module
    try:
        with pytest.raises(Refused, match=r"not_in_the_pod is not installed .* --requirements"):
            await send(there, thing=kind())
    finally:
        del sys.modules["not_in_the_pod"]
    with pytest.raises(Refused, match="no parcel"):
        await there.ask("send", b"garbage" * 10, names=["x"], size=70)
    with pytest.raises(Refused, match="no name of a variable"):
        await there.ask("send", b"", names=["a b"], size=0)
    assert list((there.run_dir / "parcels").iterdir()) == []


async def test_a_kernel_that_is_busy_takes_a_value_afterwards(there: Pod) -> None:
    await there.run("run-slow12", "import time; time.sleep(0.5)")
    await there.run("run-fails1", "1/0")
    assert (await send(there, x=[1, 2]))["names"] == ["x"]
    assert text_of(await there.done("run-look12", "print(x)")) == "[1, 2]\n"


async def test_a_kernel_that_dies_meanwhile_is_told(there: Pod) -> None:
    await there.run("run-dying1", "import time, os; time.sleep(0.5); os._exit(1)")
    with pytest.raises(Refused, match="ended meanwhile") as refused:
        await send(there, x=1)
    assert refused.value.kind == "kernel"


# terminals


async def shown(connection: Connection, marker: str, within: float = 15.0) -> str:
    data = b""
    async with asyncio.timeout(within):
        while marker.encode() not in data:
            got = await connection.reader.read(65536)
            assert got, data
            data += got
    return data.decode(errors="replace")


async def test_a_terminal(there: Pod) -> None:
    connection = await there.open("terminal", rows=30, cols=100)
    assert await connection.line() == {}
    connection.send({"in": "echo $((40 + 2)) $PWD; stty size\n"})
    text = await shown(connection, "30 100")
    assert f"42 {there.workspace}" in text
    connection.send({"size": [50, 132]})
    connection.send({"in": "stty size; echo $$ > pid; echo d\\one\n"})
    assert "50 132" in await shown(connection, "done")
    assert (await there.ask("status"))["terminals"] == 1
    connection.send({"in": "exit\n"})
    async with asyncio.timeout(10):
        while await connection.reader.read(65536):
            pass
    connection.close()
    assert (await there.ask("status"))["terminals"] == 0


async def test_a_client_that_goes_ends_its_shell(there: Pod) -> None:
    connection = await there.open("terminal", rows=30, cols=100)
    connection.send({"in": "sleep 1000 & echo $$ $! > pids; echo d\\one\n"})
    await shown(connection, "done")
    pids = (there.workspace / "pids").read_text().split()
    connection.close()

    async def gone() -> bool:
        if any(alive(int(pid)) for pid in pids):
            return False
        return bool((await there.ask("status"))["terminals"] == 0)

    await there.until("the shell and its job are gone", gone)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


async def test_a_flood_in_a_terminal_that_nobody_reads_is_held_up(there: Pod) -> None:
    assert there.process is not None
    connection = await there.open("terminal", rows=30, cols=100)
    connection.send({"in": "yes\n"})
    await shown(connection, "y\r\ny\r\n")
    await asyncio.sleep(1)
    status = Path(f"/proc/{there.process.pid}/status").read_text()
    assert int(status.split("VmRSS:")[1].split()[0]) < 100_000
    connection.send({"in": "\x03"})
    connection.send({"in": "echo st\\opped\n"})
    await shown(connection, "stopped", within=30)
    connection.close()


# ports


async def test_a_port_of_the_pod(there: Pod) -> None:
    (there.workspace / "hello.txt").write_text("hello " * 50_000)
    code = (
        "import http.server, threading, functools\n"
        "server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), "
        "functools.partial(http.server.SimpleHTTPRequestHandler, directory='.'))\n"
        "threading.Thread(target=server.serve_forever, daemon=True).start()\n"
        "print(server.server_address[1])"
    )
    port = int(text_of(await there.done("run-server", code)))

    async def ask() -> bytes:
        connection = await there.open("forward", port=port)
        assert await connection.line() == {}
        connection.writer.write(b"GET /hello.txt HTTP/1.0\r\n\r\n")
        connection.writer.write_eof()  # half of it: the answer comes all the same
        body = await connection.reader.read()
        connection.close()
        return body

    for body in await asyncio.gather(*(ask() for _ in range(10))):
        assert body.startswith(b"HTTP/1.0 200") and body.endswith(b"hello " * 50_000)
    await there.done("run-closes", "server.shutdown(); server.server_close()")
    with pytest.raises(Refused, match=f"nothing listens on port {port}") as refused:
        await there.ask("forward", port=port)
    assert refused.value.kind == "refused"


# use


async def test_the_clock_of_use_stands_still_while_nothing_happens(there: Pod) -> None:
    await there.done("run-begin1", "import threading, time")
    follower = await there.open("output", since=0)
    first = (await there.ask("status"))["active_us"]
    for _ in range(8):
        await asyncio.sleep(1)
        status = await there.ask("status")
        assert status["active_us"] == first and not status["busy"]
    follower.close()
    await there.done(
        "run-shell1",
        "import subprocess; p = subprocess.Popen(['sh', '-c', 'while :; do :; done'], "
        "start_new_session=True)",
    )
    before = (await there.ask("status"))["active_us"]

    async def moved() -> bool:
        return bool((await there.ask("status"))["active_us"] > before + 4_000_000)

    await there.until("the loop is noticed", moved, 20)
    status = await there.ask("status")
    assert status["processes"] == 3 and status["cpu_s"] > 1 and status["rss"] > 20_000_000
    assert not status["busy"]
    await there.done("run-endsit", "p.kill(); p.wait()")


async def test_what_escapes_its_parent_is_still_the_pods(there: Pod) -> None:
    code = "import os\nos.system('setsid sh -c \"sleep 1000 & echo \\\\$! > pid\" &')"
    await there.done("run-escape", code)

    async def pid() -> int:
        with contextlib.suppress(OSError, ValueError):
            return int((there.workspace / "pid").read_text())
        return 0

    found = await there.until("it runs", pid)

    async def adopted() -> bool:
        row = Path(f"/proc/{found}/stat").read_text().rsplit(")", 1)[1].split()
        assert there.process is not None
        return int(row[1]) == there.process.pid

    await there.until("it is the agent's child", adopted)
    os.kill(found, signal.SIGKILL)

    async def reaped() -> bool:
        return not Path(f"/proc/{found}").exists()

    await there.until("it is reaped", reaped)


async def test_a_busy_kernel_is_told_and_seen_from_outside(there: Pod) -> None:
    await there.kernel("start")
    busy = there.run_dir / "busy"
    assert busy.stat().st_mtime < time.time() - 3600 and busy.stat().st_size == 0
    await there.run("run-loop12", "import time\nt = time.time()\nwhile time.time() < t + 6: pass")

    async def is_busy() -> bool:
        return bool((await there.ask("status"))["busy"])

    await there.until("it is busy", is_busy)
    await there.until("it is busy still", is_busy)
    for _ in range(5):
        status = await there.ask("status")
        assert status["busy"] and status["kernel"]["state"] == "busy"
        assert time.time_ns() // 1000 - status["active_us"] < 1_000_000
        assert time.time() - busy.stat().st_mtime < 5
        await asyncio.sleep(1)
    assert status_of(await there.output(run="run-loop12")) == "ok"
    status = await there.ask("status")
    assert not status["busy"] and status["kernel"]["state"] == "idle"


# what a disk and a sandbox do


def mounts_work() -> bool:
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return (
        shutil.which("unshare") is not None
        and not subprocess.run(probe, capture_output=True, check=False).returncode
    )


async def test_a_full_disk_costs_output_and_nothing_else(tmp_path: Path) -> None:
    if not mounts_work():
        pytest.skip("a small disk cannot be mounted here: it needs root")
    folder = tmp_path / "p"
    made = Pod(folder, spool_bytes=64 << 20)
    command = 'mount -t tmpfs -o size=3m none "$0" && exec "$@"'
    made.prefix = ["unshare", "--mount", "sh", "-c", command, str(made.run_dir)]
    made.launch()
    assert made.process is not None
    inside = Path(f"/proc/{made.process.pid}/root{made.run_dir}")
    made.run_dir = inside
    try:

        async def up() -> bool:
            with contextlib.suppress(OSError):
                (await made.connect()).close()
                return True
            return False

        await made.until("it listens", up)
        filler = "with open(r'%s', 'wb') as f:\n  try:\n    while True: f.write(b'x' * 4096)\n  except OSError as e: print(e.errno)"
        await made.done("run-fills1", filler % (folder / "run" / "filler"))
        code = "for i in range(100): print('z' * 10_000, flush=True)\nprint('end')"
        items = await made.done("run-prints", code)
        assert status_of(items) == "ok"
        assert any(item["type"] == "gap" for item in items)
        assert made.log().count("the spool cannot be written") == 1
        (inside / "filler").unlink()
        await asyncio.sleep(2.1)  # it is tried again so seldom
        items = await made.done("run-again1", "print('kept again')")
        assert text_of(items) == "kept again\n" and status_of(items) == "ok"
        everything = await made.output(follow=False)
        gaps = [item for item in everything if item["type"] == "gap"]
        assert gaps and everything[-1]["type"] == "run_ended"
        numbers = [item["n"] for item in everything]
        assert numbers == sorted(set(numbers))
    finally:
        await made.close()


def bubblewrap(folder: Path, *binds: str) -> list[str]:
    return [
        *("bwrap", "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts"),
        *("--unshare-net", "--die-with-parent", "--ro-bind", "/", "/", "--dev", "/dev"),
        *("--proc", "/proc", "--tmpfs", "/var/tmp", "--bind", str(folder), str(folder), *binds),
    ]


def sandbox(tmp_path: Path) -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    probe = subprocess.run(
        [*bubblewrap(tmp_path), "true"], capture_output=True, text=True, check=False
    )
    if probe.returncode:
        pytest.skip(f"bubblewrap does not work here: {probe.stderr.strip()}")


async def test_in_a_sandbox_with_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    sandbox(tmp_path)
    folder = tmp_path / "p"
    made = Pod(folder)
    made.prefix = bubblewrap(folder, "--ro-bind", str(made.home), str(made.home))
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(made.close)
        await made.start()
        code = "open('made', 'w').close(); print(get_ipython().run_line_magic('history', '') or 1)"
        items = await made.done("run-inside", code)
        assert status_of(items) == "ok" and (made.workspace / "made").exists()
        status = await made.ask("status")
        assert status["processes"] == 2 and status["kernel"]["pid"] < 100
        server = (
            "import http.server, threading\n"
            "s = http.server.HTTPServer(('127.0.0.1', 0), http.server.BaseHTTPRequestHandler)\n"
            "threading.Thread(target=s.serve_forever, daemon=True).start()\n"
            "print(s.server_address[1])"
        )
        port = int(text_of(await made.done("run-server", server)))
        connection = await made.open("forward", port=port)  # in a network of its own
        assert await connection.line() == {}
        connection.writer.write(b"GET / HTTP/1.0\r\n\r\n")
        assert (await connection.reader.read()).startswith(b"HTTP/1.0 501")
        connection.close()
        terminal = await made.open("terminal", rows=24, cols=80)
        terminal.send({"in": "echo $((1 + 1))$((1 + 1))\n"})
        await shown(terminal, "22")
        terminal.close()
        assert await made.ask("stop") == {}
        assert await made.code_of_exit() == 0


async def test_a_deep_folder_is_no_trouble(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    async with pod(deep / "p") as there:
        assert text_of(await there.done("run-deep12", "print(1)")) == "1\n"
        (there.workspace / "k-1").write_text("the user's own")
        await there.kernel("restart")
        await there.kernel("stop")
        assert (there.workspace / "k-1").read_text() == "the user's own"
        assert json.loads((there.run_dir / "kernel.json").read_text())["ip"] == "k"
        assert (there.run_dir / "kernel.json").stat().st_mode & 0o077 == 0
