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
    expected = """help status deploy scale warm ask ls show why logs events stop start delete chart settings engine key
    open run attach kernel put get ssh port volume secret extend"""
    assert set(expected.split()) <= set(verbs())
    assert {n for n, v in verbs().items() if v.faces == ("cli",)} == {"serve", "shutdown"}


@pytest.mark.parametrize("face", ["magic", "cli"])
def test_every_verb_has_a_parser_whose_values_are_the_functions_parameters(face: str) -> None:
    for function in functions():
        name = function.__nbgpu_verb__.name  # type: ignore[attr-defined]
        known = {a.dest for a in parser_for(verbs()[name], face)._actions}
        parameters = set(inspect.signature(function).parameters) - {"context"}
        kinds = {a.name for a in verbs()[name].arguments if a.kind in ("rest", "cell", "script")}
        assert parameters - kinds <= known


def test_examples_of_every_verb_parse() -> None:
    from nbgpu.parsing import parse, words_of

    for verb in verbs().values():
        for example in verb.examples:
            face = "magic" if "magic" in verb.faces else "cli"
            cell = None if verb.cell == "never" else "text"
            assert parse(words_of(example), face, cell).verb == verb


def test_deploy_asks_for_an_endpoint_that_converges() -> None:
    made = call("deploy", "Org/Model", name="chat", workers=2, idle=300, cpu=2,
                env={"A": "1"}, engine_options=["--max-model-len", "2048"])  # fmt: skip
    assert (made.method, made.path, made.answer) == ("POST", "/v2/serverless", "Endpoint")
    assert made.body is not None
    assert made.body["workers"] == {"min": 0, "max": 2, "idleTimeout": 300}
    ours = made.body["nbgpu"]
    assert ours["model"] == "Org/Model" and ours["converge"] is True and ours["take"] is False
    assert ours["place"] == {"cpu": 2, "gpu": []}  # `use` says where
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
        ({"always_on": -1}, "--always-on cannot be -1. It goes from 0 to 64."),
        ({"workers": 65}, "--workers cannot be 65. It goes from 1 to 64."),
        ({"idle": 90_000}, "--idle cannot be 1 d 1 h. It goes from 1 s to 1 d."),
        ({"delay": 0.2}, "--delay cannot be 0.2 s. It goes from 0.5 s to 1 h."),
        ({"per_worker": 0}, "--per-worker cannot be 0."),
        ({"delay": 4, "per_worker": 4}, "Leave one of them out."),
        ({"tiers": ["fast"]}, "There is no tier fast. There are: preimported, parked; or none."),
        ({"tiers": ["none", "parked"]}, "--tiers is a list"),
        ({"tiers": []}, "--tiers is a list"),
        ({"tiers": ["preimported"], "park": 60}, "Add parked to --tiers"),
        ({"park": 700_000}, "--park cannot be"),
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


def test_deploy_says_how_it_scales_and_how_workers_may_start_only_where_asked() -> None:
    plain = call("deploy", "m").body
    assert plain is not None and "scaling" not in plain and "policy" not in plain["nbgpu"]
    body = call("deploy", "m", delay=2, tiers=["parked", "preimported"], park=0).body
    assert body is not None
    assert body["scaling"] == {"type": "QUEUE_DELAY", "queueDelay": 2.0}
    # in one order, however they are written: running it again changes nothing
    assert body["nbgpu"]["policy"] == {"tiers": ["preimported", "parked"], "parkS": 0.0}
    body = call("deploy", "m", per_worker=4, tiers=["none"]).body
    assert body is not None
    assert body["scaling"] == {"type": "REQUEST_COUNT", "requestCount": 4}
    assert body["nbgpu"]["policy"] == {"tiers": []}


@pytest.mark.parametrize(
    ("options", "body"),
    [
        ({"workers": 4}, {"workers": {"max": 4}}),
        ({"always_on": 0}, {"workers": {"min": 0}}),
        ({"idle": 300, "delay": 0.5},
         {"workers": {"idleTimeout": 300}, "scaling": {"type": "QUEUE_DELAY", "queueDelay": 0.5}}),
        ({"per_worker": 2}, {"scaling": {"type": "REQUEST_COUNT", "requestCount": 2}}),
    ],
)  # fmt: skip
def test_scale_sends_only_what_is_given(options: dict[str, Any], body: dict[str, Any]) -> None:
    made = call("scale", "chat", **options)
    assert (made.method, made.path) == ("PATCH", "/v2/serverless/chat") and made.body == body


def test_warm_is_for_half_an_hour_unless_said_otherwise() -> None:
    made = call("warm", "chat")
    assert (made.method, made.path) == ("POST", "/nbgpu/v1/warm/chat")
    assert made.body == {"seconds": 1800, "workers": 1}
    assert call("warm", "chat", for_=60, workers=2).body == {"seconds": 60, "workers": 2}
    assert call("warm", "chat", off=True).body == {"seconds": 0}
    for options in ({"for_": 0}, {"workers": 0}, {"off": True, "workers": 1}):
        with pytest.raises(UsageProblem):
            call("warm", "chat", **options)


def test_a_parameter_whose_name_python_keeps_has_the_plain_flag() -> None:
    (flag,) = [a.flags for a in verbs()["warm"].arguments if a.name == "for_"]
    assert flag == ("--for",)


def test_events_are_of_one_endpoint_or_of_all() -> None:
    assert call("events").params == {"limit": 50}
    assert call("events", "chat", limit=5).params == {"limit": 5, "endpoint": "chat"}
    with pytest.raises(UsageProblem, match="--limit cannot be 0"):
        call("events", limit=0)


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


def test_a_load_balancer_is_any_command() -> None:
    made = call("deploy", name="site", lb=True, engine_options=["python", "app.py"])
    assert isinstance(made.body, dict) and made.body["type"] == "LOAD_BALANCER"
    assert made.body["nbgpu"]["engine"] == {"name": "command", "options": ["python", "app.py"]}
    assert made.body["scaling"] == {"type": "REQUEST_COUNT", "requestCount": 4}
    for wrong in (
        {"model": "org/m", "engine_options": ["python"]},
        {"engine": "handler", "engine_options": ["python"]},
        {"engine_options": ["python"], "delay": 1.0},
        {},
    ):
        with pytest.raises(
            UsageProblem, match=r"A load balancer (is a command|scales by requests)"
        ):
            call("deploy", name="site", lb=True, **wrong)
