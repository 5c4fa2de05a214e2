"""The command line, the environment and the failures of vLLM."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from nbgpu_backend.engines import engine
from nbgpu_backend.engines.base import WorkerSpec
from nbgpu_backend.engines.vllm import sizing
from nbgpu_backend.engines.vllm.engine import VllmEngine
from nbgpu_backend.engines.vllm.environment import Environment
from nbgpu_backend.engines.vllm.failures import explain
from nbgpu_backend.errors import BadOption, BadRequest, EngineMissing, NotFound
from nbgpu_backend.home import Home

TRACE = "(EngineCore pid=7928) ERROR 11-24 05:21:48 [core.py:1510] "
END = (
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
)

# Last lines of real failures of vLLM 0.32.0, shortened in the middle.
FAILURES = {
    "option": (
        ["usage: vllm serve [model_tag] [options]",
         "vllm serve: error: argument --max-num-seqs: invalid int value: 'x'"],
        "vLLM refuses an option: argument --max-num-seqs: invalid int value: 'x'.",
    ),
    "unknown option": (
        ["            ...", "vllm: error: unrecognized arguments: --max-modle-len 3"],
        "vLLM refuses an option: unrecognized arguments: --max-modle-len 3.",
    ),
    "kv cache": (
        [TRACE + "    raise ValueError(",
         TRACE + "ValueError: To serve at least one request with the model's max seq len (8192), "
         "(0.18 GiB KV cache is needed, which is larger than the available KV cache memory (0.01 "
         "GiB). Based on the available memory, the estimated maximum model length is 512. Try "
         "increasing `gpu_memory_utilization` (which also controls CPU memory on the CPU backend)",
         END],
        "The KV cache is too small for one request of 8,192 tokens: it needs 0.18 GiB and has "
        "0.01 GiB. Up to --max-model-len 512 fits, or give more with --kv-cache-memory-bytes.",
    ),
    "kv cache and memory": (
        [TRACE + "ValueError: Available memory on node 0 (6.31/7.59 GiB) on kv cache allocation is "
         "less than requested memory for kv (60.0 GiB). Decrease --kv-cache-memory-bytes, "
         "VLLM_CPU_KVCACHE_SPACE, or reduce CPU memory used by other processes.", END],
        "There is too little memory for the KV cache: 60.0 GiB are asked for and 6.31 GiB are free."
        " Decrease --kv-cache-memory-bytes.",
    ),
    "memory": (
        [TRACE + "ValueError: Available memory on node 0 (6.56/7.59 GiB) on startup is less than "
         "desired CPU memory utilization (0.92, 6.98 GiB). On the CPU backend, the "
         "`--gpu-memory-utilization` flag controls the fraction", END],
        "There is too little memory: vLLM wants 92% of 7.59 GiB and 6.56 GiB are free. Give "
        "--kv-cache-memory-bytes.",
    ),
    "weights": (
        [TRACE + "safetensors._safetensors_rust.SafetensorError: Error while deserializing header: "
         "incomplete metadata, file not fully covered", END],
        "The weights are damaged or incomplete (Error while deserializing header: incomplete "
        "metadata, file not fully covered): fetch or copy them again.",
    ),
    "too long": (
        ["pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
         "  Value error, User-specified max_model_len (100000) is greater than the derived "
         "max_model_len (max_position_embeddings=4096.0 or model_max_length=None in model's "
         "config.json). To allow overriding this maximum, set the env var",
         "    For further information visit https://errors.pydantic.dev/2.14/v/value_error"],
        "--max-model-len 100000 is longer than the model's context (4096 tokens).",
    ),
    "model type": (
        ["  Value error, The checkpoint you are trying to load has model type `foo` but "
         "Transformers does not recognize this architecture. This could be because of an issue"],
        "This vLLM does not know the model type foo.",
    ),
    "tokenizer": (
        ["ValueError: Couldn't instantiate the backend tokenizer from one of: ",
         "(1) a `tokenizers` library serialization file, "],
        "The model's folder has no tokenizer that can be loaded (tokenizer.json).",
    ),
    "port": (
        ["    sock.bind(addr)", "OSError: [Errno 98] Address already in use"],
        "The worker's port was taken by another process in the meantime.",
    ),
    "other": (
        [TRACE + "KeyError: 'layers.0'", END],
        "vLLM failed: 'layers.0'",
    ),
}  # fmt: skip

START = """\
(APIServer pid=5758) INFO 11-24 05:14:37 [api_utils.py:286] non-default args: {'model_tag': 'm'}
(EngineCore pid=6119) INFO 11-24 05:14:53 [cpu_model_runner.py:68] Starting to load model m...
(EngineCore pid=6119) INFO 11-24 05:14:53 [default_loader.py:501] Loading weights took 0.00 seconds
(EngineCore pid=6119) INFO 11-24 05:14:54 [core.py:402] init engine (profile, create kv cache, warmup model) took 0.48 s
(APIServer pid=5758) INFO 11-24 05:14:55 [entry.py:140] Starting vLLM server on http://127.0.0.1:1
""".splitlines()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An installation whose engine environment is complete as far as can be seen."""
    monkeypatch.delenv("NBGPU_ENGINES", raising=False)
    monkeypatch.delenv("HF_HOME", raising=False)
    home = Home(tmp_path / "home")
    place = Environment.of(home)
    place.folder.mkdir(parents=True)
    (place.folder / "engine.json").write_text(json.dumps({"version": "0.32.0"}))
    table = {
        "version": "0.32.0",
        "options": [{"flags": ["--seed"], "arity": "one", "kind": "int", "choices": None}],
    }
    (place.folder / "options.json").write_text(json.dumps(table))
    place.marker.write_text("complete\n")
    return home


def spec(*options: str, **env: str) -> WorkerSpec:
    return WorkerSpec("chat", Path("/models/m"), 8123, 2, options, env)


def test_the_command_names_folder_name_and_port_and_holds_no_secret(home: Home) -> None:
    command = VllmEngine(home).command(spec())
    argv = list(command.argv)
    assert argv[0] == str(Environment.of(home).vllm)
    assert argv[1:9] == ["serve", "/models/m", "--served-model-name", "chat", "--host",
                         "127.0.0.1", "--port", "8123"]  # fmt: skip
    for flag in ("--dtype", "--kv-cache-memory-bytes", "--max-model-len", "--shutdown-timeout"):
        assert flag in argv
    assert "--enforce-eager" in argv
    assert command.key_variable == "VLLM_API_KEY"
    assert not any("key" in word for word in argv)


def test_what_the_user_says_replaces_the_default(home: Home) -> None:
    options = ["--dtype", "half", "--max_model_len=100", "--no-enforce-eager"]
    argv = list(VllmEngine(home).command(spec(*options)).argv)
    assert argv[-4:] == options
    assert argv.count("--dtype") == 1
    assert "--max-model-len" not in argv
    assert "--enforce-eager" not in argv


def test_the_environment_is_replaced_and_private(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    env = VllmEngine(home).command(spec(MINE="1", HOME="/instance")).env
    assert "AWS_SECRET_ACCESS_KEY" not in env
    assert env["OPENBLAS_CORETYPE"] == "Haswell"
    assert env["OMP_NUM_THREADS"] == "2"
    assert env["HF_HUB_OFFLINE"] == "1"
    assert env["MINE"] == "1"
    assert env["HOME"] == "/instance"
    assert VllmEngine(home).command(spec()).env["HOME"].startswith(str(home.root))


def test_workers_of_one_environment_share_a_parent(home: Home) -> None:
    found = VllmEngine(home)
    parent = found.parent(spec(HOME="/instance/1", OMP_NUM_THREADS="2"))
    assert parent is not None and parent == found.parent(spec("--seed", "1", HOME="/instance/2"))
    python, *programs = parent.argv
    assert python == str(Environment.of(home).python)
    assert [Path(program).name for program in programs] == ["parent.py", "preimport.py"]
    assert all(Path(program).is_file() for program in programs)
    env = dict(found.command(spec()).env)
    assert parent.env == {**env, "OMP_NUM_THREADS": "1"}  # nothing of a worker, no threads


def test_what_the_user_sets_may_be_read_at_import(home: Home) -> None:
    found = VllmEngine(home)
    keys = set()
    for env in ({}, {"HF_TOKEN": "a"}, {"HF_TOKEN": "b"}, {"VLLM_LOGGING_LEVEL": "DEBUG"}):
        parent = found.parent(spec(**env))
        assert parent is not None and env.items() <= parent.env.items()
        assert re.fullmatch("vllm-[0-9a-f]{16}", parent.key)
        keys.add(parent.key)
    assert len(keys) == 4


def test_a_reinstalled_engine_has_another_parent(home: Home) -> None:
    before = VllmEngine(home).parent(spec())
    place = Environment.of(home).folder / "engine.json"
    place.write_text(json.dumps({"version": "0.32.0", "builtAt": "later"}))
    after = VllmEngine(home).parent(spec())
    assert before is not None and after is not None and before.key != after.key


@pytest.mark.parametrize(
    ("name", "value", "forked"),
    [
        ("OMP_PLACES", "cores", False),
        ("KMP_AFFINITY", "compact", False),
        ("OPENBLAS_NUM_THREADS", "2", False),
        ("VLLM_WORKER_MULTIPROC_METHOD", "spawn", False),
        ("VLLM_CPU_OMP_THREADS_BIND", "auto", False),
        ("VLLM_CPU_OMP_THREADS_BIND", "nobind", True),
        ("OMP_NUM_THREADS", "3", True),
    ],
)
def test_variables_about_threads_take_a_process_of_its_own(
    home: Home, name: str, value: str, forked: bool
) -> None:
    assert (VllmEngine(home).parent(spec(**{name: value})) is not None) is forked


def test_only_vllm_is_pre_imported(home: Home) -> None:
    for name in ("command", "handler"):
        assert engine(name, home).parent(spec()) is None


def test_without_the_environment_it_names_the_command_that_installs_it(tmp_path: Path) -> None:
    missing = VllmEngine(Home(tmp_path), version="0.0.0")
    for ask in (
        missing.version,
        lambda: missing.command(spec()),
        lambda: missing.check_options([]),
    ):
        with pytest.raises(EngineMissing) as caught:
            ask()
        assert "nbgpu engine add vllm" in caught.value.next_step


def test_the_installed_table_decides_over_options(home: Home) -> None:
    found = VllmEngine(home)
    assert found.version() == "0.32.0"
    found.check_options(["--seed", "1"])
    with pytest.raises(BadOption):
        found.check_options(["--sead", "1"])


def test_a_worker_takes_30_requests_unless_told(home: Home) -> None:
    assert VllmEngine(home).concurrency([]) == 30
    assert VllmEngine(home).concurrency(["--max-num-seqs", "4"]) == 4


def test_memory_is_weights_as_loaded_and_cache_and_engine(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * 1000)
    (tmp_path / "config.json").write_text('{"dtype": "bfloat16"}')
    base = sizing.ENGINE_BYTES + (256 << 20)
    assert sizing.worker_bytes(sizing.weights(tmp_path), [], {"amx_bf16"}) == base + 1000
    assert sizing.worker_bytes(sizing.weights(tmp_path), [], {"avx2"}) == base + 2000
    small = ["--kv-cache-memory-bytes", "1M", "--dtype", "half"]
    assert sizing.worker_bytes(sizing.weights(tmp_path), small, {"avx2"}) == sizing.ENGINE_BYTES + (1 << 20) + 1000
    assert sizing.worker_bytes(None, [], ()) == base


def test_a_cpu_without_bfloat16_computes_in_float32() -> None:
    assert sizing.dtype_for({"avx2"}) == "float32"
    assert sizing.dtype_for({"avx512f", "avx512_bf16"}) == "bfloat16"


def test_a_model_is_needed(home: Home) -> None:
    with pytest.raises(BadRequest):
        VllmEngine(home).command(WorkerSpec("chat", None, 1, 1, []))


@pytest.mark.parametrize("case", FAILURES)
def test_a_failed_start_is_one_sentence(case: str) -> None:
    tail, sentence = FAILURES[case]
    assert explain(tail) == sentence


def test_a_healthy_log_explains_nothing() -> None:
    assert explain(START) == ""
    assert explain([]) == ""


def test_the_phases_end_in_their_order(home: Home) -> None:
    phases = VllmEngine(home).phases
    ends = [
        next(number for number, line in enumerate(START) if marker.pattern.search(line))
        for marker in phases
    ]
    assert [marker.phase for marker in phases] == ["import", "engine", "weights", "kv"]
    assert ends == [0, 1, 2, 3]


def test_a_command_engine_fills_in_the_command_line(home: Home) -> None:
    found = engine("command", home)
    options = ["--concurrency", "2", "--memory=2G", "python3", "s.py", "-p", "{port}", "{name}",
               '{"a": 1}']  # fmt: skip
    found.check_options(options)
    made = found.command(WorkerSpec("chat", None, 8123, 1, options, {"A": "b"}))
    assert made.argv[0].endswith("/python3")
    assert list(made.argv[1:]) == ["s.py", "-p", "8123", "chat", '{"a": 1}']
    assert made.env["A"] == "b"
    assert made.key_variable == "NBGPU_WORKER_KEY"
    assert found.concurrency(options) == 2
    assert found.memory(None, options) == 2 << 30
    assert found.concurrency(["python3"]) == 8
    assert found.memory(None, ["python3"]) == 64 << 20


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("", "needs a command line"),
        ("python3 server.py", "nowhere on which port"),
        ("no-such-program-here {port}", "no program"),
        ("--concurrency x python3 {port}", "--concurrency cannot be"),
        ("--seed 1 python3 {port}", "no option --seed"),
    ],
)
def test_a_command_line_that_cannot_work_is_refused(home: Home, line: str, what: str) -> None:
    with pytest.raises(BadOption, match=what):
        engine("command", home).check_options(line.split())


def test_an_unknown_engine_is_answered_with_the_known_ones(home: Home) -> None:
    with pytest.raises(NotFound) as caught:
        engine("vlm", home)
    assert "vllm, handler and command" in caught.value.next_step
