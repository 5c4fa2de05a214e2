"""The journal of a map outlives whoever writes it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from nbgpu import errors
from nbgpu.batch.journal import KEPT_DAYS, Journal, read, tidy


def opened(path: Path, *, fresh: bool = False, of: str = "v1", endpoint: str = "work") -> Journal:
    return Journal.open(path, endpoint, of, fresh=fresh)


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "maps" / "x.jsonl"
    journal = opened(path)
    journal.intend(0, "k0")
    journal.accepted(0, "job-0")
    journal.ended(0, "COMPLETED", output={"a": "ü"}, delay_ms=3, execution_ms=4)
    journal.cost(0, "0.0012")
    journal.intend(1, "k1")
    journal.accepted(1, "job-1")
    journal.intend(2, "k2")
    journal.intend(3, "k3")
    journal.void(3)
    journal.close()
    again = opened(path)
    assert again.entries == journal.entries and set(again.entries) == {0, 1, 2}
    first, second, third = (again.entries[n] for n in range(3))
    assert (first.end, first.output, first.cost) == ("COMPLETED", {"a": "ü"}, "0.0012")
    assert (second.job, second.end) == ("job-1", None)
    assert third.job is None and third.key == "k2"
    assert path.stat().st_mode & 0o077 == 0
    again.close()


def test_a_line_that_a_kill_cut_short_costs_that_line_only(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    journal = opened(path)
    journal.intend(0, "k0")
    journal.accepted(0, "job-0")
    journal.close()
    path.write_bytes(path.read_bytes() + b'{"row": 0, "end": "COMPL')
    again = opened(path)
    assert again.entries[0].job == "job-0" and again.entries[0].end is None
    again.ended(0, "FAILED", error="no")
    again.close()
    assert read(path)[1][0].end == "FAILED"


def test_every_prefix_of_a_journal_is_a_journal(tmp_path: Path) -> None:
    path, cut = tmp_path / "x.jsonl", tmp_path / "cut.jsonl"
    journal = opened(path)
    for n in range(3):
        journal.intend(n, f"k{n}")
        journal.accepted(n, f"job-{n}")
        journal.ended(n, "COMPLETED", output=n)
    journal.close()
    whole = path.read_bytes()
    known: set[tuple[int, str | None, str | None]] = set()
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        found = {(n, e.job, e.end) for n, e in read(cut)[1].items()}
        assert {n for n, *_ in known} <= {n for n, *_ in found}, "a row was forgotten"
        assert all(end is None or job is not None for _, job, end in found)
        known = found


def test_results_of_another_model_or_endpoint_are_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet.journal"
    journal = opened(path)
    journal.intend(0, "k0")
    journal.close()
    for options, said in (
        ({"of": "v2"}, "another version"),
        ({"endpoint": "chat"}, "endpoint work"),
    ):
        with pytest.raises(errors.UsageProblem, match=said):
            opened(path, **options)
    assert read(path)[1], "refusing keeps what was there"
    fresh = opened(path, of="v2", fresh=True)
    assert fresh.entries == {}
    fresh.close()
    opened(path, of="v2").close()


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    journal = opened(path)
    with pytest.raises(errors.Conflict, match="under way"):
        opened(path, fresh=True)
    journal.close()
    opened(path).close()


def test_old_journals_go(tmp_path: Path) -> None:
    old, new = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    for path in (old, new):
        opened(path).close()
    past = time.time() - (KEPT_DAYS + 1) * 86400
    os.utime(old, (past, past))
    tidy(tmp_path)
    assert not old.exists() and new.exists()
