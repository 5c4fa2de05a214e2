"""One sentence from the last log lines of a vLLM that failed. Pure.

vLLM ends with "Engine core initialization failed. See root cause above", and the cause stands up
to 100 lines higher: give it at least 150 lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

# `(EngineCore pid=7928) ERROR 11-24 05:21:48 [core.py:1510] ` before a line of a traceback
PREFIX = re.compile(r"^(?:\(\w+ pid=\d+\) )?(?:(?:INFO|WARNING|ERROR) \S+ \S+ \[[^]]*\] ?)?")
RAISED = re.compile(r"^(?:[\w.]*(?:Error|Exception): |Value error, )(?P<what>.+)")

Words = Callable[[re.Match[str]], str]


def _kv(found: re.Match[str]) -> str:
    return (
        f"The KV cache is too small for one request of {int(found['wanted']):,} tokens: it needs "
        f"{found['needs']} GiB and has {found['has']} GiB. Up to --max-model-len {found['fits']} "
        "fits, or give more with --kv-cache-memory-bytes."
    )


def _long(found: re.Match[str]) -> str:
    return (
        f"--max-model-len {found['asked']} is longer than the model's context "
        f"({found['most']} tokens)."
    )


KNOWN: Sequence[tuple[re.Pattern[str], Words]] = (
    (re.compile(r"^vllm[\w ]*: error: (?P<what>.+)"), lambda found: f"vLLM refuses an option: {found['what']}."),
    (
        re.compile(
            r"max seq len \((?P<wanted>\d+)\), \(?(?P<needs>[\d.]+) GiB KV cache is needed.*?"
            r"available KV cache memory \((?P<has>[\d.]+) GiB\).*?"
            r"estimated maximum model length is (?P<fits>\d+)"
        ),
        _kv,
    ),
    (
        re.compile(
            r"User-specified max_model_len \((?P<asked>\d+)\) is greater than the derived "
            r"max_model_len \(\w+=(?P<most>\d+)"
        ),
        _long,
    ),
    (
        re.compile(r"SafetensorError: (?P<what>.+)"),
        lambda found: f"The weights are damaged or incomplete ({found['what']}): fetch or copy them again.",
    ),
    (
        re.compile(r"Model architectures? \[?'?(?P<what>\w+)'?\]? (?:are|is) not supported"),
        lambda found: f"This vLLM does not support the architecture {found['what']}.",
    ),
    (
        re.compile(r"Address already in use|address already in use"),
        lambda found: "The worker's port was taken by another process in the meantime.",
    ),
    (
        re.compile(
            r"Available memory on node \d+ \((?P<free>[\d.]+)/[\d.]+ GiB\) on kv cache allocation.*?"
            r"requested memory for kv \((?P<asked>[\d.]+) GiB\)"
        ),
        lambda found: (
            f"There is too little memory for the KV cache: {found['asked']} GiB are asked for and "
            f"{found['free']} GiB are free. Decrease --kv-cache-memory-bytes."
        ),
    ),
    (
        re.compile(r"has model type `(?P<what>[^`]+)` but Transformers does not recognize"),
        lambda found: f"This vLLM does not know the model type {found['what']}.",
    ),
    (
        re.compile(r"Couldn't instantiate the backend tokenizer|Can't load tokenizer"),
        lambda found: "The model's folder has no tokenizer that can be loaded (tokenizer.json).",
    ),
    (
        re.compile(
            r"Available memory on node \d+ \((?P<free>[\d.]+)/(?P<all>[\d.]+) GiB\).*?"
            r"utilization \((?P<part>[\d.]+)"
        ),
        lambda found: (
            f"There is too little memory: vLLM wants {float(found['part']):.0%} of "
            f"{found['all']} GiB and {found['free']} GiB are free. Give --kv-cache-memory-bytes."
        ),
    ),
    (
        re.compile(r"DefaultCPUAllocator: can't allocate memory|Cannot allocate memory|MemoryError|std::bad_alloc"),
        lambda found: "There is too little memory for the weights and the KV cache.",
    ),
    (
        re.compile(r"CUDA out of memory|torch\.OutOfMemoryError"),
        lambda found: "The GPU has too little memory for the weights and the KV cache.",
    ),
    (
        re.compile(r"No space left on device"),
        lambda found: "The disk is full.",
    ),
    (
        re.compile(r"(?:size mismatch|shape mismatch|copy_\(\)|does not have the attribute|no module or parameter named)"),
        lambda found: "The weights do not fit the model's config.json: one of the two is of another model.",
    ),
)  # fmt: skip


def explain(tail: Sequence[str]) -> str:
    """The known failure nearest to the end, else the innermost exception; "" if there is none."""
    lines = [PREFIX.sub("", line.rstrip()) for line in tail]
    for pattern, words in KNOWN:
        for line in reversed(lines):
            if found := pattern.search(line):
                return words(found)
    raised = [found["what"] for line in lines if (found := RAISED.match(line.lstrip()))]
    causes = [what for what in raised if "See root cause above" not in what]
    return f"vLLM failed: {causes[-1]}" if causes else ""
