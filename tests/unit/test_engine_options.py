"""vLLM's options are checked before anything starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from nbgpu_backend.engines.vllm.environment import Environment
from nbgpu_backend.engines.vllm.options import Table, check, given, size, value
from nbgpu_backend.errors import BadOption
from nbgpu_backend.home import Home


def option(*flags: str, arity: str = "one", kind: str = "str", **more: object) -> dict[str, object]:
    return {"flags": list(flags), "arity": arity, "kind": kind, "choices": None, "help": "", **more}


TABLE = Table.of(
    {
        "version": "0.32.0+cpu",
        "options": [
            option("--max-model-len", kind="size_or_auto", help="Longest context."),
            option("--max-num-seqs", kind="int", nullable=True),
            option("--kv-cache-memory-bytes", kind="size", nullable=True),
            option("--gpu-memory-utilization", kind="float"),
            option("--dtype", choices=["auto", "bfloat16", "float16", "float32", "half"]),
            option("--enforce-eager", "--no-enforce-eager", arity="none"),
            option("--headless", arity="none"),
            option("--compilation-config", "-cc", kind="json"),
            option("--tensor-parallel-size", "-tp", kind="int"),
            option("--optimization-level"),
            option("--lora-modules", arity="many"),
            option("--hf-token", arity="optional"),
            option("--moe-backend", choices=["auto", "flashinfer_cutlass"]),
        ],
    }
)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "--max-model-len 2048",
        "--max_model_len=8k --enforce_eager",
        "--max-model-len auto --no-enforce-eager",
        "--kv-cache-memory-bytes 1.5g",
        "--max-num-seqs None",
        "--gpu-memory-utilization=-0.5",
        "-tp 2 -O3",
        "-O 2",
        "-O=1",
        "--lora-modules a=/x b=/y --dtype half",
        '--compilation-config {"mode":0,"sizes":[1k,2]}',
        "--compilation-config.mode 0 -cc.pass_config.x=true",
        "--moe-backend FlashInfer-Cutlass",
    ],
)
def test_what_vllm_takes_passes(line: str) -> None:
    check(line.split(), TABLE)


@pytest.mark.parametrize(
    ("line", "what", "then"),
    [
        ("--max-modle-len 3", "has no option --max-modle-len", "Did you mean --max-model-len?"),
        ("--max-model 3", "has no option --max-model", "Did you mean --max-model-len?"),
        ("--qqq", "vLLM 0.32.0 has no option --qqq", "--help=all"),
        ("--max-num-seqs", "--max-num-seqs needs a value", "whole number"),
        ("--max-num-seqs --enforce-eager", "--max-num-seqs needs a value", "whole number"),
        ("--max-num-seqs x", "--max-num-seqs cannot be 'x'", "whole number"),
        ("--gpu-memory-utilization half", "cannot be 'half'", "a number"),
        ("--gpu-memory-utilization -0.5", "misreads", "--gpu-memory-utilization=-0.5"),
        ("--kv-cache-memory-bytes 1.5G", "cannot be '1.5G'", "256M"),
        ("--dtype bfloat", "--dtype cannot be 'bfloat'", "Did you mean bfloat16?"),
        ("--enforce-eager=false", "--enforce-eager is a switch", "--no-enforce-eager"),
        ("--enforce-eager yes", "'yes' belongs to no option", "quotes"),
        ("--compilation-config {mode:0}", "--compilation-config cannot be", "JSON"),
        ("--compilation-config.mode", "--compilation-config.mode needs a value", "=VALUE"),
        ("--dtype.x 1", "--dtype takes no parts", "--dtype"),
        ("--port 1", "nbgpu sets --port itself", "free port"),
        ("--api_key=x", "nbgpu sets --api-key itself", "random key"),
        ("--hf-token x", "nbgpu sets --hf-token itself", "HF_TOKEN"),
        ("--headless", "nbgpu sets --headless itself", "answer"),
    ],
)
def test_what_vllm_would_refuse_is_one_sentence_with_a_next_step(
    line: str, what: str, then: str
) -> None:
    with pytest.raises(BadOption) as caught:
        check(line.split(), TABLE)
    assert what in caught.value.what
    assert then in caught.value.next_step


def test_the_last_value_of_an_option_counts() -> None:
    options = ["--max_num_seqs", "4", "--enforce-eager", "--max-num-seqs=8"]
    assert value(options, "--max-num-seqs") == "8"
    assert value(options, "--enforce-eager") == ""
    assert value(options, "--dtype") is None


def test_a_switch_that_is_turned_off_counts_as_given() -> None:
    assert given(["--no-enforce-eager"], "--enforce-eager")
    assert given(["-O3"], "-O3")
    assert not given(["--dtype", "half"], "--enforce-eager")


def test_small_letters_count_in_thousands_and_capitals_in_1024() -> None:
    assert size("1k") == 1000
    assert size("256M") == 256 * 1024 * 1024
    assert size("1.5g") == 1_500_000_000


PARSE = """
import json, sys, contextlib, io
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.entrypoints.launchers.cli_args import make_arg_parser
parser = make_arg_parser(FlexibleArgumentParser(prog="vllm serve"))
said = []
for line in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            parser.parse_args(line)
            said.append(True)
        except BaseException:
            said.append(False)
print(json.dumps(said))
"""
CASES = [
    "--max-model-len 2048",
    "--max_model_len=8k --enforce_eager",
    "--max-model-len auto --no-enforce-eager",
    "--max-model-len x",
    "--kv-cache-memory-bytes 1.5g",
    "--kv-cache-memory-bytes 1.5G",
    "--max-num-seqs x",
    "--max-num-seqs",
    "--dtype bfloat",
    "--dtype half -tp 2 -O3",
    "--enforce-eager=false",
    "--lora-modules a=/x b=/y",
    '--compilation-config {"mode":0}',
    "--compilation-config {mode:0}",
    "--compilation-config.mode 0",
    "--speculative-config.num_speculative_tokens 3",
    "--max-modle-len 3",
    "--gpu-memory-utilization 0.5 --seed -1",
    "--moe-backend auto",
    "--no-max-num-seqs",
    "--load-format dummy",
    "--quantization fp8",
    "--scheduling-policy lifo",
]


@pytest.mark.vllm
def test_the_check_agrees_with_the_installed_vllm() -> None:
    place = Environment.of(Home.default())
    if not place.complete:
        pytest.skip("the engine environment is not installed")
    lines = [case.split() for case in CASES]
    done = subprocess.run(
        [place.python, "-c", PARSE], input=json.dumps(lines), capture_output=True, text=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(Path(sys.prefix)), "VLLM_NO_USAGE_STATS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads(done.stdout.splitlines()[-1])
    table = Table.of(place.options_json())
    ours = []
    for line in lines:
        try:
            check(line, table)
            ours.append(True)
        except BadOption:
            ours.append(False)
    assert dict(zip(CASES, ours, strict=True)) == dict(zip(CASES, theirs, strict=True))
