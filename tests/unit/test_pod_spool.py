"""A pod's spool: numbers in order, each once, whatever was cut off or dropped meanwhile."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest
from nbgpu_backend.pod.spool import READ, Reader, Spool


def read(spool: Spool, since: int = 0) -> list[dict[str, Any]]:
    """All that a reader gets."""
    reader, data = Reader(spool, since), b""
    while more := reader.read():
        data += more
    reader.close()
    return [json.loads(line) for line in data.splitlines()]


def note(spool: Spool, text: str, run: str = "r") -> int:
    return spool.add(run, "note", json.dumps({"text": text}).encode())


async def test_items_come_back_from_any_number(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "s"), 1 << 30)
    rng = random.Random(1)
    texts = ["x" * rng.choice([0, 10, 1000, 3 * READ]) + str(n) for n in range(60)]
    for text in texts:
        note(spool, text)
        if rng.random() < 0.3:
            spool.flush()
    spool.flush()
    for since in range(61):
        items = read(spool, since)
        assert [item["n"] for item in items] == list(range(since + 1, 61))
        assert [item["content"]["text"] for item in items] == texts[since:]
    assert read(spool, 1000) == []
    spool.close()


async def test_segments_are_dropped_and_the_gap_is_told(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "s"), 1 << 20)
    early = Reader(spool, 0)
    for n in range(100):
        note(spool, "x" * 20_000)
        spool.flush()
        if n == 10:
            assert json.loads(early.read().splitlines()[0])["n"] == 1
    assert 1 < spool.first < 100 and spool.seq == 100
    items = read(spool)
    assert items[0]["type"] == "gap"
    assert items[0]["content"] == {"first": 1, "last": spool.first - 1}
    assert [item["n"] for item in items] == list(range(spool.first - 1, 101))
    numbers = []
    while data := early.read():
        numbers += [json.loads(line)["n"] for line in data.splitlines()]
    assert numbers == sorted(set(numbers)) and numbers[-1] == 100
    assert sum(file.stat().st_size for file in (tmp_path / "s").iterdir()) <= 1.1 * (1 << 20)
    spool.close()


async def test_text_of_one_run_and_stream_is_joined_and_no_other(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "s"), 1 << 20)
    for run, name, text in [
        ("a", b"stdout", b"1"),
        ("a", b"stdout", b"2\\n"),
        ("a", b"stderr", b"3"),
        ("b", b"stderr", b"4"),
    ]:
        spool.stream(run, name, text)
    note(spool, "between", "b")
    spool.stream("b", b"stderr", b"5")
    spool.flush()
    found = [(x["run"], x["content"].get("name"), x["content"]["text"]) for x in read(spool)]
    assert found == [
        ("a", "stdout", "12\n"),
        ("a", "stderr", "3"),
        ("b", "stderr", "4"),
        ("b", None, "between"),
        ("b", "stderr", "5"),
    ]
    spool.close()


async def test_text_does_not_wait_long_for_more(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "s"), 1 << 20)
    spool.stream("a", b"stdout", b"x")
    async with asyncio.timeout(5):
        assert await spool.wait(5)
    assert read(spool)[0]["content"]["text"] == "x"
    spool.close()


@pytest.mark.parametrize("cut", range(0, 130, 7))
async def test_a_torn_end_costs_the_torn_item_alone(tmp_path: Path, cut: int) -> None:
    spool = Spool(str(tmp_path / "s"), 1 << 20)
    for n in range(3):
        note(spool, str(n))
    spool.close()
    [file] = (tmp_path / "s").iterdir()
    whole = file.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == 10]
    left = len(whole) - cut
    file.write_bytes(whole[:left])
    again = Spool(str(tmp_path / "s"), 1 << 20)
    kept = len([end for end in ends if end <= left])
    assert again.seq == kept
    assert note(again, "next") == kept + 1
    again.flush()
    assert [item["n"] for item in read(again)] == list(range(1, kept + 2))
    again.close()


async def test_numbers_go_on_where_the_last_segment_is_empty_or_garbage(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "s"), 1 << 20)
    for n in range(5):
        note(spool, str(n))
    spool.close()
    (tmp_path / "s" / f"{6:020d}.ndjson").write_bytes(b"\0" * 100)
    again = Spool(str(tmp_path / "s"), 1 << 20)
    assert again.seq == 5 and [item["n"] for item in read(again)] == [1, 2, 3, 4, 5]
    again.close()


async def test_many_lines_at_once_keep_to_the_segments(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "s"), 4 << 20)
    for n in range(3000):
        note(spool, f"{n}" + "y" * 500)
    spool.flush()
    assert [item["n"] for item in read(spool)] == list(range(1, 3001))
    assert len(spool.segments) > 4
    assert max(segment.size for segment in spool.segments) <= spool.segment_limit
    spool.close()
