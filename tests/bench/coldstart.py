"""From nothing to the first token through the gateway, by tier, and `vllm serve` by hand beside it.

Each round starts the engine by hand, plainly, from the pre-imported parent (which is up; its own start and
memory are told apart) and out of parking, one after the other. The model is the folder of --model or
NBGPU_BENCH_MODEL, else SmolLM2-135M-Instruct, which is made on the first call (about a minute).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from nbgpu_backend.engines.vllm.environment import Environment
from nbgpu_backend.home import Home

from demo.model import ensure_smollm2
from tests.bench import report, stand
from tests.bench.report import Report
from tests.support.backend import BackendProcess
from tests.support.ports import free_port
from tests.support.waiting import until

RUNS = 5
WARM = 10  # requests after each cold one
HOLD_S = 300.0
TIERS = ("plain", "preimported", "parked")
BODY = {
    "messages": [{"role": "user", "content": "Say something."}],
    "max_tokens": 16, "temperature": 0, "ignore_eos": True,
    "stream": True, "stream_options": {"include_usage": True},
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    first_s: float  # until the first content arrived
    cold: bool
    tokens: int


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=RUNS, help="cold starts of each tier")
    parser.add_argument("--model", type=Path, help="a model's folder")


def run(given: argparse.Namespace) -> Report:
    found = Report("coldstart: to the first token, by tier")
    environment = stand.engine()
    if environment is None:
        found.notes.append("skipped: the engine is not installed (make engine)")
        return found
    model = _model(given, environment)
    rounds = Rounds(found, model, environment)
    with stand.backend() as process:
        rounds.parent(process)
        for number in range(given.runs):
            rounds.once(process, number)
    rounds.tell()
    found.notes.append(f"{model.name}, {given.runs} rounds, {stand.machine()}")
    return found


class Rounds:
    def __init__(self, found: Report, model: Path, environment: Environment) -> None:
        self.found, self.model, self.environment = found, model, environment
        self.by_hand: list[float] = []
        self.runs: dict[str, list[dict[str, Any]]] = {tier: [] for tier in TIERS}
        self.phases: dict[str, dict[str, list[float]]] = {tier: {} for tier in TIERS}
        self.warm: list[float] = []
        self.parent_s = self.parent_bytes = self.first_s = 0.0

    def parent(self, process: BackendProcess) -> None:
        """Bring it up; what the very first start in a home takes is a figure of its own."""
        self.first_s = self._start(process, "first", "preimported", [], park_s=0).first_s
        (parent,) = process.get("/nbgpu/v1/memory")["parents"]
        self.parent_s, self.parent_bytes = parent["readySeconds"], parent["memoryBytes"]
        _delete(process, "first")

    def once(self, process: BackendProcess, number: int) -> None:
        self.by_hand.append(by_hand(self.environment, self.model))
        self._start(process, f"plain-{number}", "plain", [], park_s=0)
        _delete(process, f"plain-{number}")
        name = f"forked-{number}"
        self._start(process, name, "preimported", ["preimported", "parked"], park_s=600)
        self.warm += [ask(process, name, time.perf_counter()).first_s for _ in range(WARM)]
        process.worker(name, "parked")
        began = time.perf_counter()
        self._record(process, name, "parked", ask(process, name, began))
        _delete(process, name)

    def _start(
        self, process: BackendProcess, name: str, tier: str, tiers: list[str], *, park_s: float
    ) -> Asked:
        began = time.perf_counter()
        policy = {"tiers": tiers or ([] if tier == "plain" else [tier]), "parkS": park_s}
        process.deploy(
            name, workers={"max": 1, "idleTimeout": 1},
            nbgpu={"engine": {"name": "vllm"}, "model": str(self.model), "policy": policy},
        )  # fmt: skip
        asked = ask(process, name, began)
        if name != "first":
            self._record(process, name, tier, asked)
        return asked

    def _record(self, process: BackendProcess, name: str, tier: str, asked: Asked) -> None:
        served = process.records(name, 1)[-1]["tier"]
        self.runs[tier].append(
            {"tier_asked": tier, "tier_served": served, "seconds": round(asked.first_s, 4)}
        )
        self.found.check(served == tier, f"{name}: {tier} was asked for, {served} was served")
        self.found.check(asked.cold, f"{name}: its answer says that it was not cold")
        self.found.check(asked.tokens == 16, f"{name}: {asked.tokens} tokens, not 16")
        record = process.records(name, 1)[-1]
        for phase, ms in record["phases"].items():
            self.phases[tier].setdefault(phase, []).append(ms / 1000)

    def tell(self) -> None:
        found, hand = self.found, median(self.by_hand)
        found.add("vllm serve by hand, median", hand, "s")
        for tier in TIERS:
            seconds = [one["seconds"] for one in self.runs[tier]]
            limit = 0.3 if tier == "parked" else None
            found.add(f"{tier}, median", median(seconds), "s", limit)
            found.add(f"{tier}, slowest", max(seconds), "s")
        plain = median(one["seconds"] for one in self.runs["plain"])
        forked = median(one["seconds"] for one in self.runs["preimported"])
        found.add("pre-imported / by hand", forked / hand, "times", 0.15)
        found.add("pre-imported / plain", forked / plain, "times")
        for tier in TIERS:
            for phase, times in self.phases[tier].items():
                found.add(f"  {tier}: {phase}", median(times), "s")
        found.add("the parent's own start", self.parent_s, "s")
        found.add("the parent's memory (PSS)", self.parent_bytes / 1e6, "MB")
        found.add("the very first start in a home, parent included", self.first_s, "s")
        found.add("first token, warm, median", median(self.warm) * 1000, "ms")
        found.add("first token, warm, p99", report.percentile(self.warm, 99) * 1000, "ms")
        found.more["by_hand"] = {"median_s": hand, "seconds": self.by_hand}
        found.more["tiers"] = {
            tier: {"median_s": median(one["seconds"] for one in runs), "runs": runs}
            for tier, runs in self.runs.items()
        }


def by_hand(environment: Environment, model: Path) -> float:
    """Seconds from typing `vllm serve` to the first token, with what a processor needs and no more."""
    port = free_port()
    argv = [
        str(environment.vllm), "serve", str(model), "--served-model-name", "hand", "--host", "127.0.0.1",
        "--port", str(port), "--max-model-len", "2048", "--enforce-eager",
        "--kv-cache-memory-bytes", "256M", "--dtype", "auto",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as home:
        env = {
            "PATH": f"{environment.folder / 'bin'}:/usr/bin:/bin", "HOME": home, "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1", "VLLM_CACHE_ROOT": str(environment.folder.parent / "hand-cache"),
        }  # fmt: skip
        began = time.perf_counter()
        server = subprocess.Popen(
            argv,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=url, trust_env=False, timeout=HOLD_S, verify=False) as http:
                until(lambda: _healthy(http), within=HOLD_S, every=0.01)
                return _ask(http, "/v1/chat/completions", "hand", began).first_s
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)


def _healthy(http: httpx.Client) -> bool:
    try:
        return http.get("/health").status_code == 200
    except httpx.HTTPError:
        return False


def ask(process: BackendProcess, name: str, began: float) -> Asked:
    """Stream 16 tokens; `began` is on the clock of time.perf_counter()."""
    return _ask(process.http, f"/v2/{name}/openai/v1/chat/completions", name, began)


def _ask(http: httpx.Client, path: str, model: str, began: float) -> Asked:
    first, tokens = 0.0, 0
    with http.stream("POST", path, json={"model": model, **BODY}, timeout=HOLD_S) as answer:
        if answer.status_code != 200:
            raise SystemExit(f"{model}: {answer.status_code} {answer.read().decode()[:500]}")
        cold = answer.headers.get("x-nbgpu-cold") == "1"
        waited = False
        for line in answer.iter_lines():
            waited = waited or line.startswith(":")
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise SystemExit(f"{model}: {event['error']['message']}")
            if not first and event["choices"] and event["choices"][0]["delta"].get("content"):
                first = time.perf_counter() - began
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
    # headers that went out with a waiting comment could not know it
    return Asked(first, cold or waited, tokens)


def _delete(process: BackendProcess, name: str) -> None:
    process.http.delete(f"/v2/serverless/{name}").raise_for_status()


def _model(given: argparse.Namespace, environment: Environment) -> Path:
    if named := given.model or os.environ.get("NBGPU_BENCH_MODEL"):
        return Path(named).resolve()
    return ensure_smollm2(Home(environment.folder.parent / "bench"), environment.python)


if __name__ == "__main__":
    report.main(run, arguments, __doc__)
