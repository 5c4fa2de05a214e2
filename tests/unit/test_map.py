"""`ep.map` against a stand-in backend: nothing is run twice, nothing is lost, whatever is cut off."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas
import pytest
from nbgpu import errors
from nbgpu.batch.journal import read
from nbgpu.client import connect
from nbgpu_backend import runtime

from tests.support.api import Api, request_row, until
from tests.unit.test_magics import interrupt_when


@pytest.fixture
def work(api: Api) -> Any:
    """An endpoint of a handler."""
    ep = connect().deploy("Org/M", name="work")
    api.endpoints["work"].nbgpu.engine.name = "handler"
    return ep


def ran(api: Api) -> Counter[str]:
    return Counter(json.dumps(given) for given in api.jobs.accepted)


def once(api: Api, count: int) -> None:
    assert len(ran(api)) == count and set(ran(api).values()) == {1}


def stopping_after(count: int) -> tuple[Callable[[Any], Any], threading.Event]:
    """A handler that returns what it was given, so many times at once and the rest after the event."""
    begun, free = itertools.count(), threading.Event()

    def handler(given: Any) -> Any:
        if next(begun) >= count:
            free.wait(30)
        return given["prompt"]

    return handler, free


def test_outputs_stand_beside_the_values_in_their_order(api: Api, work: Any) -> None:
    frame = pandas.DataFrame({"n": range(20), "word": "x"}, index=range(100, 120))
    api.jobs.handler = lambda given: {"double": given["n"] * 2, "type": type(given["n"]).__name__}
    found = work.map(frame, {"n": "{{n}}"}, expand=True)
    assert list(found) == [{"double": n * 2, "type": "int"} for n in range(20)]
    df = found.df
    assert list(df.index) == list(range(100, 120)) and list(df["double"]) == [
        n * 2 for n in range(20)
    ]
    assert list(df.columns) == ["n", "word", "output", "status", "error", "delay_ms", "execution_ms",
                                "cost", "job", "double", "type"]  # fmt: skip
    assert set(df["status"]) == {"COMPLETED"} and df["delay_ms"].dtype == "Int64"
    assert found.cost == Decimal("0.0020") and df["cost"].sum() == pytest.approx(0.002)
    assert found.failed.empty and "20 rows by work · $0.002" in found.text()
    once(api, 20)


def test_a_row_that_fails_is_kept_with_its_error_and_stops_nothing(api: Api, work: Any) -> None:
    def handler(given: Any) -> Any:
        if given["prompt"] == 3:
            raise ValueError("three <b>")
        return given["prompt"]

    api.jobs.handler = handler
    found = work.map(range(6))
    (bad,) = found.failed.to_dict("records")
    assert (bad["text"], bad["status"], bad["output"]) == (3, "FAILED", None)
    assert bad["error"] == "ValueError: three <b>"
    assert "1 failed" in found.text() and "three &lt;b&gt;" in found._repr_html_()
    again = work.map(range(6))
    assert len(api.jobs.accepted) == 6 and len(again.failed) == 1
    api.jobs.handler = lambda given: given["prompt"]
    assert list(work.map(range(6), retry_failed=True)) == list(range(6))
    assert len(api.jobs.accepted) == 7
    work.map(range(6), fresh=True)
    assert len(api.jobs.accepted) == 13


def test_a_row_without_its_value_is_not_sent(api: Api, work: Any) -> None:
    found = work.map(["a", None], "say {{text}}")
    assert list(found.df["status"]) == ["COMPLETED", "FAILED"] and len(api.jobs.accepted) == 1
    assert found.df["error"][1] == "text is missing in this row."


def test_errors_raise_stops_at_the_first(api: Api, work: Any) -> None:
    def handler(given: Any) -> Any:
        raise ValueError("no")

    api.jobs.handler, api.jobs.slots = handler, 1
    with pytest.raises(errors.JobFailed, match=r"ValueError: no.* It is row 0\..*Run it again"):
        work.map(range(50), concurrency=2, errors="raise")
    assert len(api.jobs.accepted) < 10
    with pytest.raises(errors.UsageProblem, match="'keep' or 'raise'"):
        work.map(["a"], errors="ignore")


def test_no_more_than_concurrency_are_in_flight(api: Api, work: Any) -> None:
    api.jobs.hold()

    def watch() -> None:
        assert until(lambda: len(api.jobs.accepted) == 5)
        api.jobs.let_go()

    watching = threading.Thread(target=watch)
    watching.start()
    work.map(range(40), concurrency=5)
    watching.join()
    assert api.jobs.most == 5
    with pytest.raises(errors.UsageProblem, match="from 1 to 256"):
        work.map(["a"], concurrency=0)


def test_a_full_queue_is_waited_out(api: Api, work: Any) -> None:
    api.jobs.limit = 3
    assert list(work.map(range(30), concurrency=16)) == [{"prompt": n} for n in range(30)]
    assert api.jobs.busy > 0 and api.jobs.most == 3
    once(api, 30)


def test_an_interrupt_says_what_goes_on_and_the_next_run_goes_on(api: Api, work: Any) -> None:
    api.jobs.slots = 2
    handler, seen = stopping_after(10)
    api.jobs.handler = handler
    interrupt_when(lambda: len(api.jobs.accepted) >= 14)
    with pytest.raises(errors.Interrupted) as told:
        work.map(range(30), concurrency=4)
    counted = re.search(r"(\d+) of 30 rows are done\. (\d+) jobs? that", str(told.value))
    assert counted is not None
    assert int(counted[1]) + int(counted[2]) == len(api.jobs.accepted) < 30
    assert "nbgpu.connect().endpoint('work').cancel_map('/" in str(told.value)
    assert "Run it again" in str(told.value)
    seen.set()
    assert list(work.map(range(30))) == list(range(30))
    once(api, 30)


@pytest.mark.parametrize("of", ["out", "journal", "name"])
def test_an_interrupted_map_is_cancelled_alone_and_its_rows_run_again(
    api: Api, work: Any, tmp_path: Path, of: str
) -> None:
    handler, free = stopping_after(1)
    api.jobs.handler, api.jobs.slots = handler, 2
    options: dict[str, Any] = {"name": "mine"} if of == "name" else {"out": tmp_path / "o.jsonl"}
    other = work.run({"prompt": "another's"})
    assert other.result(5) == "another's"
    other = work.run({"prompt": "another's"})
    interrupt_when(lambda: len(api.jobs.accepted) >= 6)
    with pytest.raises(errors.Interrupted) as told:
        work.map(range(10), concurrency=4, **options)
    named = re.search(r"cancel_map\('(.+)'\)", str(told.value))
    assert named is not None
    count = work.cancel_map({"out": tmp_path / "o.jsonl", "journal": named[1], "name": "mine"}[of])
    assert count == 4 and api.jobs.states().count("CANCELLED") == 4
    assert other.status != "CANCELLED" and work.cancel_map(named[1]) == 0
    free.set()
    found = work.map(range(10), **options)
    assert list(found) == list(range(10)) and found.failed.empty


def test_what_is_no_map_cannot_be_cancelled(api: Api, work: Any, tmp_path: Path) -> None:
    (tmp_path / "o.csv").write_text("a\n1\n")
    for of in ("none", "", tmp_path / "o.csv"):
        with pytest.raises(errors.UsageProblem, match="no map of work"):
            work.cancel_map(of)


def test_a_kernel_that_is_killed_goes_on_in_the_next(api: Api, work: Any, tmp_path: Path) -> None:
    api.jobs.slots = 2
    handler, free = stopping_after(10)
    api.jobs.handler = handler
    program = textwrap.dedent(
        f"""
        import nbgpu
        nbgpu.connect().endpoint("work").map(range(40), concurrency=6, out={str(tmp_path / "o.jsonl")!r})
        """
    )
    kernel = subprocess.Popen([sys.executable, "-c", program], env=dict(os.environ))
    assert until(lambda: len(api.jobs.accepted) >= 16)
    kernel.kill()
    kernel.wait()
    free.set()
    found = work.map(range(40), out=tmp_path / "o.jsonl")
    assert list(found) == list(range(40))
    once(api, 40)
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [line["output"] for line in lines] == list(range(40))


def test_a_job_that_was_accepted_unheard_is_found_and_not_sent_again(api: Api, work: Any) -> None:
    api.jobs.lose = 5  # the backend dies between storing and answering
    assert list(work.map(range(20), concurrency=4)) == [{"prompt": n} for n in range(20)]
    assert api.jobs.lose == 0
    once(api, 20)


def test_a_kernel_killed_between_sending_and_noting_finds_its_job(api: Api, work: Any) -> None:
    work.map(["a", "b"])
    journal = work.map(["a", "b"]).journal
    kept = [line for line in journal.read_text().splitlines()
            if json.loads(line).get("row") != 1 or "key" in json.loads(line)]  # fmt: skip
    journal.write_text("\n".join(kept) + "\n")
    assert read(journal)[1][1].job is None
    assert list(work.map(["a", "b"])) == [{"prompt": "a"}, {"prompt": "b"}]
    once(api, 2)


def test_equal_rows_are_each_run(api: Api, work: Any) -> None:
    assert len(work.map(["same"] * 7)) == 7
    assert len(api.jobs.accepted) == 7


def test_a_backend_that_goes_away_and_comes_back_costs_no_row(api: Api, work: Any) -> None:
    api.jobs.slots = 4

    def flicker() -> None:
        for share in (10, 25):
            assert until(lambda share=share: len(api.jobs.accepted) >= share)
            broken = len(api.seen)
            api.away = True
            assert until(lambda broken=broken: len(api.seen) >= broken + 12)
            api.away = False

    outage = threading.Thread(target=flicker)
    outage.start()
    assert list(work.map(range(40), concurrency=8)) == [{"prompt": n} for n in range(40)]
    outage.join()
    once(api, 40)


def test_a_job_that_is_forgotten_is_run_again(api: Api, work: Any) -> None:
    api.jobs.hold()
    interrupt_when(lambda: len(api.jobs.accepted) >= 3)
    with pytest.raises(errors.Interrupted):
        work.map(["a", "b", "c"])
    api.jobs.forget(next(iter(api.jobs.known)))
    api.jobs.let_go()
    assert len(work.map(["a", "b", "c"]).failed) == 0
    assert len(api.jobs.accepted) == 4


def test_a_refused_endpoint_stops_the_map_and_it_goes_on_later(api: Api, work: Any) -> None:
    api.jobs.refusal = (503, "work is stopped. Start it again.")
    with pytest.raises(errors.ServiceError, match=r"work is stopped.*Run it again to go on"):
        work.map(range(10))
    api.jobs.refusal = None
    assert len(work.map(range(10)).failed) == 0
    once(api, 10)


def test_an_input_that_is_refused_fails_its_row(api: Api, work: Any) -> None:
    api.jobs.refusal = (413, "The body is too large.")
    found = work.map(["a"])
    assert found.df["error"][0].startswith("The body is too large.")


def test_rows_have_normal_priority_unless_low_is_asked_for(api: Api, work: Any) -> None:
    work.map(range(3))
    assert all("policy" not in body for body in api.jobs.bodies)
    work.map(["low"], low_priority=True)
    assert api.jobs.bodies[-1]["policy"] == {"lowPriority": True}


def test_rows_left_waiting_with_low_priority_are_submitted_anew_when_it_is_not_asked_for(
    api: Api, work: Any, capsys: Any
) -> None:
    api.jobs.asleep = True  # low priority starts no worker
    interrupt_when(lambda: len(api.jobs.accepted) == 5)
    with pytest.raises(errors.Interrupted):
        work.map(range(5), low_priority=True)
    assert "these jobs have low priority and start no worker" in capsys.readouterr().err
    assert list(work.map(range(5))) == [{"prompt": n} for n in range(5)]
    assert sorted(api.jobs.states()) == ["CANCELLED"] * 5 + ["COMPLETED"] * 5


def test_rows_that_run_are_not_submitted_anew_for_their_priority(api: Api, work: Any) -> None:
    handler, free = stopping_after(0)
    api.jobs.handler = handler
    interrupt_when(lambda: api.jobs.states() == ["IN_PROGRESS"] * 2)
    with pytest.raises(errors.Interrupted):
        work.map(range(2), low_priority=True)
    free.set()
    assert list(work.map(range(2))) == [0, 1]
    once(api, 2)


def test_a_quote_comes_first_and_above_the_limit_it_needs_a_yes(
    api: Api, work: Any, capsys: Any
) -> None:
    work.map(["a"])
    assert "unknown, this is the first time" in capsys.readouterr().err
    api.requests = [{**request_row(n), "route": "/run", "queue_ms": 0.0, "total_ms": 36_000.0,
                     "cost": "0.001"} for n in range(3)]  # fmt: skip
    api.jobs.cost = "0.001"
    with pytest.raises(errors.BatchStopped, match=r"about \$2.00.*limit of \$1.00.*yes=True"):
        work.map([f"x{n}" for n in range(2000)])
    assert len(api.jobs.accepted) == 1
    said = capsys.readouterr().err
    assert "2,000 rows, about 20 h and $2.00 for the jobs themselves: 36.0 s each" in said
    assert len(work.map(["b", "c"], limit=0.001, yes=True)) == 2


def test_what_is_spent_is_held_to_the_limit(api: Api, work: Any) -> None:
    api.jobs.cost, api.jobs.slots = "0.5", 2
    handler, gone = stopping_after(6)
    api.jobs.handler = handler
    with pytest.raises(errors.BatchStopped, match=r"\$3.00 are spent.*limit of \$1.00"):
        work.map(range(50), concurrency=4)
    gone.set()
    assert len(api.jobs.accepted) == 10


def test_a_changed_value_runs_its_row_and_another_model_runs_none_by_itself(
    api: Api, work: Any, tmp_path: Path
) -> None:
    out = tmp_path / "o.csv"
    work.map(["a", "b"], out=out)
    assert list(work.map(["a", "c"], out=out)) == [{"prompt": "a"}, {"prompt": "c"}]
    assert len(api.jobs.accepted) == 3
    api.endpoints["work"].nbgpu.model.revision = "another"
    with pytest.raises(errors.UsageProblem, match="fresh=True"):
        work.map(["a", "c"], out=out)
    work.map(["a", "c"], out=out, fresh=True)
    assert len(api.jobs.accepted) == 5
    work.map(["a"], name="trial")
    assert (runtime.Home.default().root / "maps" / "work-trial.jsonl").exists()
    with pytest.raises(errors.UsageProblem, match="no name for a map"):
        work.map(["a"], name="../x")


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_files_hold_what_the_frame_holds(api: Api, work: Any, tmp_path: Path, kind: str) -> None:
    outputs: dict[str, Any] = {"a": {"x": 1}, "b": "text", "c": 3, "d": None, "e": [1]}
    api.jobs.handler = lambda given: outputs[given["prompt"]]
    out = tmp_path / f"o.{kind}"
    frame = pandas.DataFrame({"q": list("abcde"), "any": [1, "x", None, {"y": 2}, 2.5]})
    work.map(frame, "{{q}}", out=out)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == [
        out.name,
        f"{out.name}.journal",
    ]
    if kind == "jsonl":
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        assert [line["output"] for line in lines] == list(outputs.values())
        return
    found = pandas.read_parquet(out) if kind == "parquet" else pandas.read_csv(out)
    texts = [value if isinstance(value, str) else None for value in found["output"]]
    assert [None if t is None else json.loads(t) for t in texts] == list(outputs.values())
    assert list(found["q"]) == list("abcde") and set(found["status"]) == {"COMPLETED"}


def test_a_place_that_cannot_be_written_is_told_before_anything_is_sent(
    api: Api, work: Any, tmp_path: Path
) -> None:
    for out, said in (("o.xlsx", "no kind of file"), ("none/o.csv", "no folder")):
        with pytest.raises(errors.UsageProblem, match=said):
            work.map(["a"], out=tmp_path / out)
    assert api.jobs.accepted == []


def test_nothing_to_do_is_a_result(api: Api, work: Any) -> None:
    found = work.map([])
    assert len(found) == 0 and found.df.empty and found.cost == 0 and found.text()
