"""From deploy to the first token through the gateway, with the real engine; and warm, beside it.

The model is the folder of --model or NBGPU_BENCH_MODEL, else the tiny Llama of the tests.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx

from tests.bench import report, stand
from tests.bench.report import Report
from tests.support.backend import BackendProcess

RUNS = 3
WARM = 10  # requests after each cold one
HOLD_S = 300.0


@dataclass(frozen=True)
class Asked:
    first_s: float  # until the first content arrived
    cold: bool
    tokens: int


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=RUNS, help="cold starts")
    parser.add_argument("--model", type=Path, help="a model's folder")


def run(given: argparse.Namespace) -> Report:
    found = Report("coldstart: from deploy to the first token")
    environment = stand.engine()
    if environment is None:
        found.notes.append("skipped: the engine is not installed (make engine)")
        return found
    named = given.model or os.environ.get("NBGPU_BENCH_MODEL")
    model = Path(named).resolve() if named else stand.tiny_llama(environment)
    colds: list[float] = []
    warms: list[float] = []
    phases: dict[str, list[float]] = {}
    with stand.backend() as process:
        for number in range(given.runs):
            name = f"cold-{number}"
            began = time.perf_counter()
            process.deploy(name, nbgpu={"engine": {"name": "vllm"}, "model": str(model)})
            cold = ask(process, name, began)
            warm = [ask(process, name, time.perf_counter()) for _ in range(WARM)]
            found.check(cold.cold, f"run {number}: the first answer says that it was not cold")
            found.check(not any(w.cold for w in warm), f"run {number}: a warm answer says cold")
            found.check(
                all(a.tokens == 16 for a in (cold, *warm)), f"run {number}: not 16 tokens each"
            )
            colds.append(cold.first_s)
            warms += [w.first_s for w in warm]
            record = process.records(name, 1 + WARM)[0]
            for phase, ms in record["phases"].items():
                phases.setdefault(phase, []).append(ms / 1000)
            total = sum(record["phases"].values()) / 1000
            found.check(
                bool(total) and total <= cold.first_s,
                f"run {number}: phases of {total:.1f} s in {cold.first_s:.1f} s",
            )
            process.http.delete(f"/v2/serverless/{name}").raise_for_status()
    found.add("deploy to first token, the first in this home", colds[0], "s")
    if len(colds) > 1:
        found.add("deploy to first token, median of the later", median(colds[1:]), "s")
    for phase, times in phases.items():
        found.add(f"phase {phase}, median of the later", median(times[1:] or times), "s")
    found.add("first token, warm, median", median(warms) * 1000, "ms")
    found.add("first token, warm, p99", report.percentile(warms, 99) * 1000, "ms")
    found.add("cold start / warm first token", median(colds[1:] or colds) / median(warms), "times")
    found.notes.append(f"{model.name}, {given.runs} cold starts, {stand.machine()}")
    return found


def ask(process: BackendProcess, name: str, began: float) -> Asked:
    """Stream 16 tokens; `began` is on the clock of time.perf_counter()."""
    first, tokens = 0.0, 0
    body = {
        "model": name, "messages": [{"role": "user", "content": "Say something."}],
        "max_tokens": 16, "temperature": 0, "ignore_eos": True,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    path = f"/v2/{name}/openai/v1/chat/completions"
    with process.http.stream("POST", path, json=body, timeout=httpx.Timeout(HOLD_S)) as answer:
        if answer.status_code != 200:
            raise SystemExit(f"{name}: {answer.status_code} {answer.read().decode()[:500]}")
        cold = answer.headers.get("x-nbgpu-cold") == "1"
        waited = False
        for line in answer.iter_lines():
            waited = waited or line.startswith(":")
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise SystemExit(f"{name}: {event['error']['message']}")
            if not first and event["choices"] and event["choices"][0]["delta"].get("content"):
                first = time.perf_counter() - began
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
    # headers that went out with a waiting comment could not know it
    return Asked(first, cold or waited, tokens)


if __name__ == "__main__":
    report.main(run, arguments, __doc__)
