"""Three hosts in networks of their own, cut off while a cell prints, a notebook's kernel works, a file is on
its way and an answer is streamed; `--kill` kills the backend meanwhile. It takes root."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from tests.bench import report, stand
from tests.bench.report import Report
from tests.support.pods import PodBackend, status_of, text_of
from tests.support.ssh_pods import add_host, build_engines, share_engines
from tests.support.sshd import Net, Sshd, serving
from tests.support.waiting import until

SECONDS = 30.0
HOSTS = ("lab1", "lab2", "lab3")
FILE_BYTES, FILE_MBIT = 100_000_000, 100  # so that it takes some 8 s
BACK_S = 120.0


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cut-s", type=float, default=SECONDS)
    parser.add_argument("--kill", action="store_true", help="kill the backend during the cut")


def run(given: argparse.Namespace) -> Report:
    found = Report("cuts: what became of work on three hosts while none was heard")
    net = Net(len(HOSTS))
    with tempfile.TemporaryDirectory(prefix="nbgpu-cuts-") as scratch, ExitStack() as stack:
        root = Path(scratch)
        engines = build_engines(root / "engines")
        stack.callback(net.stop)
        net.start()
        home = PodBackend(root / "home")
        for number, name in enumerate(HOSTS):
            server = Sshd(root / name, net.address(number), enter=net.enter(number), port=2222)
            stack.enter_context(serving(server))
            share_engines(server, engines)
            add_host(home, server, name)
        home.start()
        stack.callback(lambda: home.shutdown(everything=True))
        stack.callback(lambda: [net.restore(n) for n in range(len(HOSTS))])
        for name in HOSTS:
            home.open_pod(f"on-{name}", place={"on": name})
        _Cut(found, home, net, given.cut_s, given.kill, root).run()
    found.notes.append(stand.machine())
    return found


class _Cut:
    def __init__(
        self, found: Report, home: PodBackend, net: Net, cut_s: float, kill: bool, root: Path
    ) -> None:
        self._found, self._home, self._net = found, home, net
        self._cut_s, self._kill, self._root = cut_s, kill, root

    def run(self) -> None:
        home, net = self._home, self._net
        last = int((self._cut_s + 20) * 10)
        code = f"import time\nfor n in range(1, {last + 1}):\n    print(n, flush=True)\n    time.sleep(0.1)"
        counting = home.start_run(code, "on-lab1")
        home.deploy("far", nbgpu={"place": {"on": "lab1,lab2"}}, workers={"max": 1})
        assert home.chat("far").status_code == 200
        file = self._root / "large.bin"
        file.write_bytes(os.urandom(FILE_BYTES))
        net.slow(2, FILE_MBIT)
        with ThreadPoolExecutor(2) as pool, _Notebook(home, "on-lab2") as notebook:
            notebook.says("kept = 42", "")
            begun = threading.Event()
            stream = pool.submit(self._stream, begun)
            put = pool.submit(home.cli, "put", "on-lab3", str(file), timeout=self._cut_s + 300)
            assert begun.wait(20)
            time.sleep(3)
            began = time.monotonic()
            for number in range(len(HOSTS)):
                net.cut(number)
            states = [f"on-{name}" for name in HOSTS]
            until(lambda: all(home.state(n) == "unreachable" for n in states), within=60)
            self._found.add(
                "until all three are said to be unreachable", time.monotonic() - began, "s"
            )
            said = stream.result(timeout=60)
            self._found.check("error" in said, f"a broken stream ended with {said}")
            waiting = None
            if self._kill:
                home.kill()
                home.start()
            else:
                waiting = pool.submit(self._ask, self._cut_s + 120)
            time.sleep(max(0.0, self._cut_s - (time.monotonic() - began)))
            for number in range(len(HOSTS)):
                net.restore(number)
            restored = time.monotonic()
            for name in states:
                until(lambda n=name: home.state(n) in ("idle", "busy"), within=BACK_S)  # type: ignore[misc]
            self._found.add(
                "from the link's return until all three serve", time.monotonic() - restored, "s"
            )
            answer = home.chat("far") if waiting is None else waiting.result(timeout=BACK_S)
            self._found.check(
                answer.status_code == 200, f"the next request got {answer.status_code}"
            )
            until(lambda: notebook.answers("kept", "42"), within=BACK_S)
            self._check_output(counting["id"], last)
            self._check_file(put, file)
        alive = home.get("/v2/serverless/far/workers")["workers"]
        self._found.check(len(alive) == 1, f"{len(alive)} workers where one may be")
        for name in states:
            home.delete_pod(name)

    def _ask(self, patience_s: float) -> httpx.Response:
        body = {"model": "far", "messages": [{"role": "user", "content": "hi"}]}
        with self._home.client() as client:
            path = "/v2/far/openai/v1/chat/completions"
            return client.post(path, json=body, timeout=patience_s)

    def _stream(self, begun: threading.Event) -> dict[str, Any]:
        """The last event of an answer that is much too long."""
        body = {
            "model": "far", "messages": [{"role": "user", "content": "hi"}], "stream": True,
            "nbgpu_test": {"chunks": 20_000, "delay_ms": 50},
        }  # fmt: skip
        said: dict[str, Any] = {}
        with (
            self._home.client() as client,
            client.stream("POST", "/v2/far/openai/v1/chat/completions", json=body) as answer,
        ):
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    said = json.loads(line[6:])
                    begun.set()
        return said

    def _check_output(self, run: str, last: int) -> None:
        items = list(self._home.output("on-lab1", run=run))
        numbers = [int(line) for line in text_of(items).split()]
        self._found.check(
            numbers == list(range(1, last + 1)) and status_of(items) == "ok",
            f"{last} numbers were printed, and {len(numbers)} came, not each once and in order",
        )
        self._found.add("numbers printed, each once and in order", float(len(numbers)), "")

    def _check_file(self, put: Any, file: Path) -> None:
        done: subprocess.CompletedProcess[str] = put.result(timeout=300)
        again = 0
        while done.returncode != 0 and again < 5:  # it says so, and goes on where it was
            again += 1
            self._found.notes.append(f"`put` said: {done.stderr.strip()}")
            done = self._home.cli("put", "on-lab3", str(file), timeout=300)
        self._found.check(done.returncode == 0, f"the file did not arrive: {done.stderr}")
        self._found.add("times that `put` had to be said again", float(again), "")
        code = f"import hashlib; print(hashlib.sha256(open('/workspace/{file.name}','rb').read()).hexdigest())"
        there = self._home.printed(code, "on-lab3").strip()
        self._found.check(
            there == hashlib.sha256(file.read_bytes()).hexdigest(), "the file differs"
        )


class _Notebook:
    """A notebook's kernel in a pod, as Jupyter starts it."""

    def __init__(self, home: PodBackend, pod: str) -> None:
        specs = KernelSpecManager()
        specs.kernel_dirs = [str(home.home.kernels)]
        os.environ["NBGPU_HOME"] = str(home.home.root)
        self._manager = KernelManager(kernel_name=f"nbgpu-{pod}", kernel_spec_manager=specs)

    def __enter__(self) -> _Notebook:
        self._manager.start_kernel()
        self._client = self._manager.blocking_client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=60)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)

    def says(self, code: str, result: str) -> None:
        assert self.answers(code, result), code

    def answers(self, code: str, result: str) -> bool:
        """Does it answer, and with this?"""
        ask = {"user_expressions": {"said": f"str({code})"}} if result else {}
        try:
            reply = self._client.execute("" if result else code, reply=True, timeout=5, **ask)
        except TimeoutError:
            return False
        if not result:
            return bool(reply["content"]["status"] == "ok")
        said = reply["content"]["user_expressions"]["said"]
        return bool(said["data"]["text/plain"] == repr(result))


if __name__ == "__main__":
    report.main(run, arguments, __doc__)
