"""The grammar of a line."""

from __future__ import annotations

from typing import Any

import pytest
from nbgpu import formats, helptext
from nbgpu.errors import UsageProblem
from nbgpu.parsing import check_braces, fill, parse, without_comment, words_of


def values(line: str, face: str = "magic", cell: str | None = None) -> dict[str, Any]:
    return parse(words_of(line), face, cell).values


def refused(line: str, face: str = "magic", cell: str | None = None) -> str:
    with pytest.raises(UsageProblem) as caught:
        parse(words_of(line), face, cell)
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("ls # all of them", "ls"),
        ("ls #", "ls"),
        ("# nothing", ""),
        ("deploy a#b", "deploy a#b"),
        ("deploy 'a # b' --name x # c", "deploy 'a # b' --name x"),
        ('deploy "a # b"', 'deploy "a # b"'),
        (r"deploy a\ #b", r"deploy a\ #b"),
        ("deploy 'open # quote", "deploy 'open"),
    ],
)
def test_a_comment_at_the_end_is_stripped(line: str, kept: str) -> None:
    assert without_comment(line) == kept


def test_deploy_reads_all_its_options() -> None:
    found = values(
        "deploy Org/M --name chat --on local --gpu H100,A100 --workers 3 --always-on 1 --idle 5m "
        "--delay 0.5s --tiers parked,preimported --park 10m "
        "--env A=1 --env B=x=y --engine command --take -- --name theirs -x"
    )
    assert found == {
        "model": "Org/M", "name": "chat", "on": "local", "gpu": ["H100", "A100"], "cpu": None,
        "workers": 3, "always_on": 1, "idle": 300, "delay": 0.5, "per_worker": None,
        "tiers": ["parked", "preimported"], "park": 600, "env": {"A": "1", "B": "x=y"}, "engine": "command",
        "lb": False, "take": True, "engine_options": ["--name", "theirs", "-x"],
    }  # fmt: skip


def test_bare_engine_options_pass() -> None:
    found = values(
        "deploy M --max-model-len 2048 --name chat --enforce-eager --dtype=bfloat16 -tp 2"
    )
    assert found["engine_options"] == [
        "--max-model-len", "2048", "--enforce-eager", "--dtype=bfloat16", "-tp", "2",
    ]  # fmt: skip
    assert (found["model"], found["name"]) == ("M", "chat")


def test_json_passes_to_the_engine() -> None:
    found = values("""deploy M --override-generation-config '{"temperature": 0.5}'""")
    assert found["engine_options"][1] == '{"temperature": 0.5}'


def test_options_may_come_before_the_model() -> None:
    assert values("deploy --name chat --take M")["model"] == "M"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("deploy M --nmae chat", "Did you mean --name?"),
        ("deploy M --worker 2", "Did you mean --workers?"),
        ("deploy M --alwayson 2", "Did you mean --always-on?"),
        ("deploy --max-model-len 2048 M", "comes too early"),
        ("deploy M --idle 5x", "30s, 5m, 2h"),
        ("deploy M --workers two", "--workers"),
        ("deploy M --env A", "NAME=VALUE"),
        ("deploy M --engine sglang", "vllm"),
        ("deploy M N", "does not know what to do with 'N'"),
        ("deploi M", "Did you mean deploy?"),
        ("logs chat --tial 5", "Did you mean --tail?"),
        ("logs chat --tai 5", "Did you mean --tail?"),
        ("start", "missing: NAME"),
        ("ls 'x", "quotation mark"),
        ("ls -o 1x", "no name for a variable"),
        ("ls --json", "no option --json"),
        ("serve", "no verb serve"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_next_step(line: str, said: str) -> None:
    text = refused(line)
    assert said in text and "\n" not in text


def test_a_cell_is_asked_for_and_refused_where_it_belongs() -> None:
    assert "Write %%gpu ask chat" in refused("ask chat")
    assert "The cell is empty" in refused("ask chat", cell="\n ")
    assert "takes no cell" in refused("deploy M", cell="x")
    assert values("ask chat --system 'Be brief.'", cell="Why?") == {
        "name": "chat", "text": "Why?", "system": "Be brief.", "max_tokens": None,
        "temperature": None, "raw": False,
    }  # fmt: skip


def test_on_a_command_line_the_text_is_words() -> None:
    found = parse(["ask", "chat", "Why", "so?", "--raw", "--json"], "cli")
    assert found.values["text"] == "Why so?" and found.json


@pytest.mark.parametrize(
    "line", ["deploy?", "deploy ?", "deploy -h", "deploy M --help", "deploy ??"]
)
def test_help_of_a_verb(line: str) -> None:
    assert parse(words_of(line), "magic").help


def test_nothing_is_status_in_a_cell_and_help_on_a_command_line() -> None:
    assert parse([], "magic").verb.name == "status"
    assert parse([], "cli").verb.name == "help"


def test_pages_name_every_option() -> None:
    page = helptext.of("deploy", "magic")
    for flag in ("--name", "--always-on", "--idle", "--engine", "--take", "--out"):
        assert flag in page
    assert "--json" in helptext.of("deploy", "cli")
    overview = helptext.of(None, "magic")
    assert sum(line.startswith("%") for line in overview.splitlines()) == 9  # eight, and %gpu alone
    assert "%gpu VERB?" in overview and "nbgpu VERB --help" in helptext.of(None, "cli")


def test_an_unexpanded_brace_is_refused_with_the_reason() -> None:
    with pytest.raises(UsageProblem, match="model is not defined"):
        check_braces("deploy {model} --name x", {})
    with pytest.raises(UsageProblem, match="some brace of this line"):
        check_braces("deploy {model} --name x", {"model": 1})
    check_braces("""deploy M -- --x '{"a": 1}' # {later}""", {})


def test_a_command_engine_fills_in_its_own_braces() -> None:
    check_braces("deploy --name x --engine command -- server --port {port} {model} {name}", {})
    with pytest.raises(UsageProblem, match="port is not defined"):
        check_braces("deploy M --name {port} --engine command -- server", {})
    with pytest.raises(UsageProblem, match="port is not defined"):
        check_braces("deploy M -- --port {port}", {})


def test_double_braces_are_filled_and_all_else_is_raw() -> None:
    names = {"x": 7, "row": {"text": "hi"}}
    assert fill("{{x}} {{ row['text'] }} {x} { {{}} %s $x", names) == "7 hi {x} { {{}} %s $x"
    with pytest.raises(UsageProblem, match=r"nope is not defined"):
        fill("{{nope}}", names)
    with pytest.raises(UsageProblem, match="KeyError"):
        fill("{{row['none']}}", names)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5m", 300), ("2h", 7200), ("1h30m", 5400), ("1d", 86400), ("9", 9)],
)
def test_lengths_of_time(text: str, seconds: int) -> None:
    assert formats.seconds(text) == seconds


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0125, "12 ms"), (0.4, "0.4 s"), (0.25, "0.25 s"), (21.44, "21.4 s"), (59.99, "1 min"),
     (125, "2 min 5 s"), (7200, "2 h"), (7800, "2 h 10 min"), (273600, "3 d 4 h")],
)  # fmt: skip
def test_spans_as_people_read_them(value: float, text: str) -> None:
    assert formats.span(value) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [("0", "$0"), ("0.41", "$0.41"), ("0.00123", "$0.0012"), ("0.05", "$0.05"), ("0.0500", "$0.05"),
     ("1204", "$1,204.00"), ("0.0003", "$0.0003"), ("0.1", "$0.10")],
)  # fmt: skip
def test_dollars_as_people_read_them(amount: str, text: str) -> None:
    assert formats.dollars(amount) == text
