"""One set of verbs: what is written in verbs.json, and what a verb asks of the backend."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from nbgpu.errors import UsageProblem
from nbgpu.parsing import parser_for
from nbgpu.verbs import build
from nbgpu.verbs.call import Call
from nbgpu.verbs.endpoints import name_of
from nbgpu.verbs.registry import collect, functions
from nbgpu.verbs.spec import PATH, read, verbs


def call(name: str, /, *arguments: Any, **options: Any) -> Call:
    found: Call = verbs()[name].load()(*arguments, **options)
    return found


def test_verbs_json_is_what_the_signatures_say() -> None:
    assert PATH.read_text() == build.render(), "run: python -m nbgpu.verbs.build"


def test_verbs_json_reads_back_as_the_same_verbs() -> None:
    import json

    assert list(read(json.loads(build.render())).values()) == collect()


def test_every_verb_is_there() -> None:
    expected = "help status deploy ask ls show why logs stop start delete chart settings engine"
    assert set(expected.split()) <= set(verbs())
    assert {n for n, v in verbs().items() if v.faces == ("cli",)} == {"serve", "shutdown"}


@pytest.mark.parametrize("face", ["magic", "cli"])
def test_every_verb_has_a_parser_whose_values_are_the_functions_parameters(face: str) -> None:
    for function in functions():
        name = function.__nbgpu_verb__.name  # type: ignore[attr-defined]
        known = {a.dest for a in parser_for(verbs()[name], face)._actions}
        parameters = set(inspect.signature(function).parameters) - {"context"}
        kinds = {a.name for a in verbs()[name].arguments if a.kind in ("rest", "cell")}
        assert parameters - kinds <= known


def test_examples_of_every_verb_parse() -> None:
    from nbgpu.parsing import parse, words_of

    for verb in verbs().values():
        for example in verb.examples:
            face = "magic" if "magic" in verb.faces else "cli"
            cell = "text" if verb.cell == "required" else None
            assert parse(words_of(example), face, cell).verb == verb


def test_deploy_asks_for_an_endpoint_that_converges() -> None:
    made = call("deploy", "Org/Model", name="chat", workers=2, idle=300, cpu=2,
                env={"A": "1"}, engine_options=["--max-model-len", "2048"])  # fmt: skip
    assert (made.method, made.path, made.answer) == ("POST", "/v2/serverless", "Endpoint")
    assert made.body is not None
    assert made.body["workers"] == {"min": 0, "max": 2, "idleTimeout": 300}
    ours = made.body["nbgpu"]
    assert ours["model"] == "Org/Model" and ours["converge"] is True and ours["take"] is False
    assert ours["place"] == {"on": "local", "cpu": 2, "gpu": []}
    assert ours["engine"] == {"name": "vllm", "options": ["--max-model-len", "2048"]}
    assert made.body["env"] == {"A": "1"}


def test_a_python_file_is_a_handler(tmp_path: Path) -> None:
    for options in ({}, {"engine": "handler"}):
        body = call("deploy", "mood/handler.py", engine_options=["--size", "2"], **options).body
        assert body is not None and body["name"] == "mood"
        assert body["nbgpu"]["model"] == "mood/handler.py"
        assert body["nbgpu"]["engine"] == {"name": "handler", "options": ["--size", "2"]}
    other = call("deploy", "serve.py", name="x", engine="command", engine_options=["a"]).body
    assert other is not None and other["nbgpu"]["engine"]["name"] == "command"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", "qwen2-5-0-5b-instruct"),
        ("hub:Org/Model", "model"),
        ("./models/My Model/", "my-model"),
        ("///", "endpoint"),
        ("mood.py", "mood"),
        ("mood/handler.py", "mood"),
        ("/home/me/Mood Ring/main.py", "mood-ring"),
        ("mood/rank.py", "rank"),
        ("handler.py", "handler"),
        ("../handler.py", "handler"),
        ("src/handler.py", "handler"),
        ("x" * 80, "x" * 63),
    ],
)
def test_an_endpoint_is_named_after_its_model(model: str, name: str) -> None:
    assert name_of(model) == name


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"env": {"HF_TOKEN": "x"}}, "HF_TOKEN looks like a secret"),
        ({"env": {"my_password": "x"}}, "my_password looks like a secret"),
        ({"always_on": 3, "workers": 2}, "--workers 3 or more"),
        ({"gpu": ["H100"], "cpu": 2}, "exclude each other"),
        ({"model": None}, "Which model?"),
        ({"model": None, "engine": "command"}, "--name NAME"),
        ({"model": None, "engine": "handler"}, "Which file?"),
    ],
)
def test_deploy_refuses_what_cannot_be_meant(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageProblem, match=re.escape(said)):
        call("deploy", **{"model": "m", **options})


def test_always_on_raises_the_most_workers() -> None:
    body = call("deploy", "m", always_on=2).body
    assert body is not None and body["workers"]["max"] == 2


def test_names_are_quoted_in_paths() -> None:
    assert call("show", "a/../b").path == "/v2/serverless/a%2F..%2Fb"


def test_raw_asks_for_a_completion() -> None:
    made = call("ask", "chat", "Once", raw=True, max_tokens=5)
    assert made.path.endswith("/openai/v1/completions") and made.streamed
    assert made.body is not None and made.body["prompt"] == "Once" and made.body["max_tokens"] == 5


def test_settings_take_rates_only() -> None:
    assert call("settings", pairs={"rate.local": "$0.10"}).body == {"rates": {"local": "0.10"}}
    for pairs in ({"speed": "1"}, {"rate.local": "cheap"}, {"rate.local": "-1"}):
        with pytest.raises(UsageProblem):
            call("settings", pairs=pairs)


def test_the_module_of_verbs_imports_nothing_of_the_backend_but_schema_and_runtime() -> None:
    folder = Path(PATH).parent
    allowed = re.compile(r"nbgpu_backend(\.schema[.\w]*|\.runtime)? import|import nbgpu_backend\.")
    for file in folder.rglob("*.py"):
        for line in file.read_text().splitlines():
            if re.match(r"\s*(from|import) nbgpu_backend", line):
                assert allowed.search(line), f"{file}: {line}"
                if "from nbgpu_backend import" in line:
                    assert line.strip() == "from nbgpu_backend import runtime"
