"""From values and a template to the inputs of jobs."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy
import pandas
import pytest
from nbgpu.batch import template
from nbgpu.batch.rows import Form, Table, rows
from nbgpu.errors import UsageProblem

HANDLER, MODEL = Form("handler"), Form("vllm")


def inputs(values: Any, wanted: Any = None, form: Form = HANDLER) -> list[Any]:
    return [row.input for row in rows(Table(values), wanted, form)]


def test_a_string_that_is_one_slot_keeps_the_type_and_others_become_text() -> None:
    wanted = {"n": "{{ n }}", "said": "n is {{n}}!", "deep": [{"k": ["{{xs}}"]}], "fixed": 3}
    filled = template.fill(wanted, {"n": 4, "xs": [1, {"a": None}]})
    assert filled == {"n": 4, "said": "n is 4!", "deep": [{"k": [[1, {"a": None}]]}], "fixed": 3}
    assert list(template.names(wanted)) == ["n", "n", "xs"]


def test_braces_of_a_value_are_not_filled_again() -> None:
    assert template.fill("{{a}} {{b}}", {"a": "{{b}}", "b": "x"}) == "{{b}} x"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (numpy.int64(3), 3),
        (numpy.float32(0.5), 0.5),
        (numpy.bool_(True), True),
        (numpy.str_("a"), "a"),
        (numpy.array([[1, 2]]), [[1, 2]]),
        (float("nan"), None),
        (float("inf"), None),
        (pandas.NA, None),
        (pandas.NaT, None),
        (pandas.Timestamp("2026-01-02"), "2026-01-02T00:00:00"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
        (Decimal("0.10"), "0.10"),
        ({"a": (1, numpy.int8(2))}, {"a": [1, 2]}),
    ],
)
def test_values_are_sent_as_json_knows_them(value: Any, expected: Any) -> None:
    found = template.plain(value)
    assert found == expected and type(found) is type(expected)


def test_what_has_no_json_is_refused_with_its_row_before_anything_is_sent() -> None:
    with pytest.raises(UsageProblem, match="Row 1 cannot be sent: a object has no form in JSON"):
        inputs([1, object()])


def test_texts_are_questions_to_a_model_and_a_prompt_to_a_handler() -> None:
    assert inputs(["a"], "say {{text}}") == [{"prompt": "say a"}]
    assert inputs(["a"], "say {{text}}", MODEL) == [
        {"messages": [{"role": "user", "content": "say a"}]}
    ]
    form = Form("vllm", system="be brief", max_tokens=5, temperature=0.0)
    assert inputs(["a"], None, form) == [
        {
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "a"},
            ],
            "sampling_params": {"max_tokens": 5, "temperature": 0.0},
        }
    ]
    assert inputs(["a"], None, Form("vllm", raw=True)) == [{"prompt": "a"}]


def test_without_a_template_dicts_and_rows_are_inputs_as_they_stand() -> None:
    assert inputs([{"x": 1}, {"x": 2}]) == [{"x": 1}, {"x": 2}]
    assert inputs([{"prompt": "a"}], None, MODEL) == [{"prompt": "a"}]
    assert inputs([3, [1]]) == [{"prompt": 3}, {"prompt": [1]}]
    frame = pandas.DataFrame({"n": [1, 2], "word": ["a", None]})
    assert inputs(frame) == [{"n": 1, "word": "a"}, {"n": 2, "word": None}]


def test_the_columns_of_a_frame_and_the_keys_of_dicts_have_names() -> None:
    frame = pandas.DataFrame({"prompt text": ["a", "b"], "n": [1, 2]}, index=[7, 3])
    assert inputs(frame, {"q": "{{prompt text}}", "n": "{{n}}"}) == [
        {"q": "a", "n": 1},
        {"q": "b", "n": 2},
    ]
    assert inputs([{"a": 1}], {"x": "{{a}}"}) == [{"x": 1}]
    series = pandas.Series(["a"], name="prompt")
    assert inputs(series, {"x": "{{prompt}}"}) == inputs(series, {"x": "{{text}}"}) == [{"x": "a"}]


def test_a_missing_value_fails_its_row_only() -> None:
    frame = pandas.DataFrame({"q": ["a", None]})
    good, bad = rows(Table(frame), "say {{q}}", MODEL)
    assert good.error is None and bad.error == "q is missing in this row."
    assert [r.error for r in rows(Table([{"a": 1}, {"b": 1}]), {"x": "{{a}}"}, HANDLER)] == [
        None,
        "a is missing in this row.",
    ]


@pytest.mark.parametrize(
    ("values", "wanted", "form", "said"),
    [
        (pandas.DataFrame({"prompt": ["a"]}), "{{promt}}", MODEL, "no column promt. Did you mean prompt?"),
        (["a"], "{{txt}}", MODEL, "no value txt. Did you mean text?"),
        (["a"], "hello", MODEL, "every row would be the same"),
        ("a", None, MODEL, "this is one text"),
        ({"a": 1}, None, MODEL, "this is a dict"),
        (3, None, MODEL, "this is a int"),
        (pandas.DataFrame({"q": ["a"]}), None, MODEL, "no question. Say what to ask"),
        (["a"], {"x": "{{text}}"}, Form("vllm", max_tokens=5), "max_tokens cannot be given here"),
        (["a"], "{{text}}", Form("handler", system="x"), "system cannot be given here"),
        (["a"], "{{text}}", Form("vllm", system="x", raw=True), "raw has no system message"),
        (pandas.DataFrame([[1, 2]], columns=["a", "a"]), None, HANDLER, "two columns a"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_one_sentence(
    values: Any, wanted: Any, form: Form, said: str
) -> None:
    with pytest.raises(UsageProblem) as found:
        rows(Table(values), wanted, form)
    assert said in str(found.value)


def test_equal_inputs_have_equal_keys_and_others_do_not() -> None:
    one, two, three = rows(Table([{"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1}]), None, HANDLER)
    assert one.key == two.key != three.key
