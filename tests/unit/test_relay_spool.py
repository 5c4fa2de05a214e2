"""The relay's spool: what is written can be read, whatever happened to the file's end."""

from __future__ import annotations

import ast
import errno
import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from nbgpu_backend import relay
from nbgpu_backend.providers.base import Post
from nbgpu_backend.providers.local.relay_client import Spool, read_spool

SOURCE = Path(relay.__file__)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def spool(folder: Path) -> Iterator[relay.Spool]:
    made = relay.Spool()
    yield made
    os.close(made.fd)


def write(spool: relay.Spool, head: dict[str, object], body: bytes = b"") -> bool:
    answers: list[bool] = []
    spool.add(head, body, answers.append)
    spool.commit()
    return answers == [True]


def take(spool: relay.Spool, *ids: str) -> bool:
    return write(spool, {"op": "taken", "ids": list(ids)})


def post(spool: relay.Spool, job: str, body: bytes = b"{}", final: bool = True) -> bool:
    head = {"op": "post", "n": 0, "kind": "done", "job": job, "stream": False, "final": final}
    return write(spool, {**head, "size": len(body)}, body)


def sent(spool: relay.Spool) -> list[int]:
    """The numbers that a backend gets from here on."""
    found = []
    while (one := spool.next()) is not None:
        found.append(one[0])
    return found


def test_it_parses_on_the_oldest_python_it_promises() -> None:
    ast.parse(SOURCE.read_text(), feature_version=(3, 8))


def test_no_file_is_an_empty_spool(tmp_path: Path) -> None:
    assert read_spool(tmp_path) == Spool([], [])


def test_what_was_taken_and_posted_is_read_back(folder: Path, spool: relay.Spool) -> None:
    take(spool, "a", "b", "c")
    post(spool, "a", b'{"status":"IN_PROGRESS"}', final=False)
    post(spool, "b", b'{"output":"\n\xc3\xa9"}')
    write(spool, {"op": "returned", "ids": ["c"]})
    assert read_spool(folder) == Spool(
        ["a"],
        [
            Post(1, "done", "a", False, b'{"status":"IN_PROGRESS"}'),
            Post(2, "done", "b", False, b'{"output":"\n\xc3\xa9"}'),
        ],
    )
    assert (folder / "spool").stat().st_mode & 0o777 == 0o600


def test_a_job_that_was_given_again_has_left_nothing_of_its_former_run(
    folder: Path, spool: relay.Spool
) -> None:
    take(spool, "a", "b")
    post(spool, "a", b'{"error":"old"}')
    post(spool, "b")
    take(spool, "a")
    assert read_spool(folder).held == ["a"]
    assert [one.job for one in read_spool(folder).posts] == ["b"]
    post(spool, "a", b'{"output":"new"}')
    assert [one.body for one in read_spool(folder).posts] == [b"{}", b'{"output":"new"}']


def test_a_tail_torn_at_any_byte_costs_only_the_last_record(
    folder: Path, spool: relay.Spool
) -> None:
    ends = [0]
    for i in range(4):
        take(spool, f"j{i}")
        ends.append(spool.size)
        post(spool, f"j{i}", b"x" * (i * 7))
        ends.append(spool.size)
    whole = (folder / "spool").read_bytes()
    other = folder / "other"
    other.mkdir()
    for cut in range(len(whole) + 1):
        (other / "spool").write_bytes(whole[:cut])
        complete = sum(end <= cut for end in ends) - 1
        read = read_spool(other)
        assert len(read.posts) == complete // 2
        assert read.held == ([f"j{complete // 2}"] if complete % 2 else [])


def test_a_damaged_record_ends_the_spool(folder: Path, spool: relay.Spool) -> None:
    post(spool, "a", b"first")
    end = spool.size
    post(spool, "b", b"second")
    whole = bytearray((folder / "spool").read_bytes())
    for at in range(end, len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x20
        (folder / "spool").write_bytes(damaged)
        assert [one.body for one in read_spool(folder).posts] == [b"first"]


def test_a_folder_that_was_used_before_is_not_written_over(
    folder: Path, spool: relay.Spool
) -> None:
    post(spool, "a")
    with pytest.raises(FileExistsError):
        relay.Spool()
    assert len(read_spool(folder).posts) == 1


def test_an_acknowledgement_of_what_never_was_is_refused(spool: relay.Spool) -> None:
    post(spool, "a")
    with pytest.raises(ValueError):
        spool.ack(2)


def test_a_cut_spool_keeps_what_is_held_and_goes_on_counting(
    folder: Path, spool: relay.Spool
) -> None:
    take(spool, "long", "short")
    post(spool, "short", b"x" * relay.COMPACT_FROM)
    assert sent(spool) == [1]
    spool.ack(1)
    assert (folder / "spool").stat().st_size < 200
    assert read_spool(folder) == Spool(["long"], [])
    post(spool, "long", b"late")
    assert sent(spool) == [2]
    assert read_spool(folder) == Spool([], [Post(2, "done", "long", False, b"late")])


def test_a_backend_that_is_always_behind_does_not_let_it_grow(
    folder: Path, spool: relay.Spool
) -> None:
    largest = 0
    for n in range(1, 301):
        post(spool, f"j{n}", b"x" * 40_000)
        if n > 5:
            spool.ack(n - 5)
        largest = max(largest, spool.size)
    assert largest < 3 * relay.COMPACT_FROM
    assert [one.n for one in read_spool(folder).posts][-5:] == list(range(296, 301))


def test_what_nobody_fetches_is_not_kept_in_memory(folder: Path, spool: relay.Spool) -> None:
    for _ in range(200):
        for _ in range(100):
            spool.add(
                {"op": "post", "n": 0, "kind": "stream", "job": "a", "stream": False, "size": 900},
                b"x" * 900,
                lambda _: None,
            )
        spool.commit()
    assert spool.last == 20000
    assert len(spool.marks) < 400
    assert sent(spool) == list(range(1, 20001))


@pytest.mark.parametrize("seed", range(8))
def test_any_history_reads_back_as_it_was(folder: Path, seed: int) -> None:
    """Against a model: takes, returns, posts, acknowledgements, reconnects and dead relays."""
    dice = random.Random(seed)
    made = relay.Spool()
    held: list[str] = []
    bodies: dict[int, bytes] = {}
    acked = fetched = number = 0
    for _ in range(400):
        move = dice.random()
        if move < 0.25:
            number += 1
            held.append(f"j{number}")
            take(made, held[-1])
        elif move < 0.3 and held:
            job = held.pop(dice.randrange(len(held)))
            write(made, {"op": "returned", "ids": [job]})
        elif move < 0.7:
            final = bool(held) and dice.random() < 0.5
            job = held.pop(dice.randrange(len(held))) if final else "unknown"
            body = dice.randbytes(dice.choice([0, 10, 1000, 70_000, 400_000]))
            post(made, job, body, final)
            bodies[len(bodies) + 1] = body
        elif move < 0.85:
            fresh = sent(made)
            assert fresh == list(range(max(acked, fetched) + 1, len(bodies) + 1))
            fetched = len(bodies)
        elif move < 0.95 and fetched > acked:
            acked = dice.randint(acked + 1, fetched)
            made.ack(acked)
        else:
            made.rewind()
            fetched = acked
        if dice.random() < 0.1:
            read = read_spool(folder)
            assert set(read.held) == set(held) == set(made.held)
            kept = {one.n: one.body for one in read.posts}
            assert all(kept[n] == bodies[n] for n in range(acked + 1, len(bodies) + 1))
            assert all(bodies[n] == body for n, body in kept.items())
    os.close(made.fd)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_full_disk_refuses_what_does_not_fit_and_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        monkeypatch.chdir(tmp_path)
        made = relay.Spool()
        assert post(made, "a", b"a" * 900_000)
        large: list[bool] = []
        small: list[bool] = []
        head = {"op": "post", "n": 0, "kind": "done", "job": "b", "stream": False, "final": True}
        made.add({**head, "size": 1_500_000}, b"b" * 1_500_000, large.append)
        made.add({**head, "job": "c", "size": 3}, b"ccc", small.append)
        made.commit()
        assert (large, small) == ([False], [True])  # its neighbour is no reason to refuse it
        assert [(one.n, one.job) for one in read_spool(tmp_path).posts] == [(1, "a"), (2, "c")]
        made.ack(2)  # what is stored elsewhere makes room by itself
        assert not post(made, "d", b"d" * 2_500_000)
        assert post(made, "d", b"d" * 1_500_000)
        assert [(one.n, one.job) for one in read_spool(tmp_path).posts] == [(3, "d")]
        os.close(made.fd)
    finally:
        monkeypatch.undo()
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
        shutil.rmtree(tmp_path, ignore_errors=True)


def test_a_sync_that_fails_is_no_answer_of_success(
    folder: Path, spool: relay.Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    post(spool, "a")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        assert not post(spool, "b")
        assert not take(spool, "c")
    assert spool.held == {} and spool.last == 1
    assert post(spool, "d")
    assert [(one.n, one.job) for one in read_spool(folder).posts] == [(1, "a"), (2, "d")]


@pytest.mark.parametrize(
    ("kind", "value", "final"),
    [
        ("done", {"output": 1}, True),
        ("done", {}, True),
        ("done", {"status": "IN_PROGRESS", "output": 1}, False),
        ("done", {"output": {"status": "IN_PROGRESS"}}, True),
        ("done", {"output": ["IN_PROGRESS"]}, True),
        ("stream", {"output": 1}, False),
    ],
)
def test_only_a_progress_update_leaves_a_job_open(kind: str, value: object, final: bool) -> None:
    assert relay.is_final(kind, json.dumps(value).encode()) is final


def test_a_body_that_is_no_json_ends_its_job() -> None:
    assert relay.is_final("done", b'"IN_PROGRESS" \xff')


def test_what_the_caller_fixed_in_the_environment_stays() -> None:
    made = relay.handler_env(
        {"RUNPOD_PING_INTERVAL": "2000", "A": "b", "https_proxy": "p"}, 7, "ep", "w", "key"
    )
    assert made["RUNPOD_PING_INTERVAL"] == "2000" and made["A"] == "b"
    assert made["RUNPOD_WEBHOOK_GET_JOB"] == "http://127.0.0.1:7/v2/ep/job-take/$ID?gpu="
    assert (
        made["RUNPOD_WEBHOOK_POST_OUTPUT"]
        == "http://127.0.0.1:7/v2/ep/job-done/$RUNPOD_POD_ID/$ID?gpu="
    )
    assert "no_proxy" not in made  # that proxy is not asked for plain http


def test_the_handler_reaches_the_relay_past_a_proxy() -> None:
    made = relay.handler_env({"HTTP_PROXY": "http://p", "NO_PROXY": "x"}, 7, "ep", "w", "key")
    assert made["no_proxy"] == made["NO_PROXY"] == "x,127.0.0.1"
