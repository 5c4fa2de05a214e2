"""Workers and pods on the cards of one machine, here and over SSH. The driver's listing is a stand-in; whether a
program can use what it gets needs a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.pods import PodBackend, SpawnedBackend
from tests.support.ssh_workers import HostsBackend
from tests.support.sshd import Sshd, needs_sshd, serving
from tests.support.waiting import until

# index, uuid, name, MiB; a host is asked for more, and lists it behind
SMI = """#!/bin/sh
case "$*" in *pci.bus_id*) more=', 0, 0, 550.54, 00000000:07:00.0, Disabled';; esac
echo "0, GPU-aaa, NVIDIA H100 80GB HBM3, 81559$more"
echo "1, GPU-bbb, NVIDIA L4, 23034$more"
"""


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    """A folder for PATH."""
    folder = tmp_path / "smi"
    folder.mkdir()
    (folder / "nvidia-smi").write_text(SMI)
    (folder / "nvidia-smi").chmod(0o755)
    return folder


@pytest.fixture
def here(tmp_path: Path, driver: Path) -> Iterator[PodBackend]:
    backend = SpawnedBackend(tmp_path / "home")
    backend.environment["PATH"] = f"{driver}:{backend.environment['PATH']}"
    backend.start()
    yield backend
    backend.shutdown(everything=True)


def wish(*gpus: str, on: str = "local") -> dict[str, object]:
    return {"place": {"on": on, "gpu": list(gpus)}}


def visible(pid: int) -> str:
    """CUDA_VISIBLE_DEVICES of a process."""
    pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    found = dict(pair.partition(b"=")[::2] for pair in pairs)
    return found.get(b"CUDA_VISIBLE_DEVICES", b"").decode()


def test_a_card_is_one_workers_or_one_pods(here: PodBackend) -> None:
    here.deploy("first", nbgpu=wish("H100", "L4"))
    here.deploy("second", nbgpu=wish("H100", "L4"))
    assert here.chat("first").status_code == 200
    assert here.chat("second").status_code == 200
    first, second = here.worker("first"), here.worker("second")
    assert (first["gpu"], second["gpu"]) == ("H100", "L4")
    assert (visible(first["pid"]), visible(second["pid"])) == ("GPU-aaa", "GPU-bbb")
    assert "not on H100: 0 of 1 are free" in " ".join(here.get("/nbgpu/v1/why/second")["facts"])
    offers = {one["gpu"]: one["free"] for one in here.get("/nbgpu/v1/offers")["offers"]}
    assert (offers["H100"], offers["L4"]) == (0, 0)
    here.open_pod("train", wait=False, place={"on": "local", "gpu": ["H100"]})
    until(lambda: here.pod()["nbgpu"]["reason"]["code"] == "no_capacity", within=60)
    # who has what is known to the next backend
    here.kill()
    here.start()
    assert here.chat("first").status_code == 200
    assert here.pod()["nbgpu"]["reason"]["code"] in ("no_capacity", "preparing", "environment")
    here.http.delete("/v2/serverless/first").raise_for_status()
    assert here.pod_ready()["gpu"]["id"] == "H100"
    # and a worker waits for a pod's
    here.deploy("third", nbgpu=wish("H100"))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(here.chat, "third")
        until(lambda: here.row("third")["state"] == "throttled")
        assert "0 of 1 are free" in here.row("third")["reason"]
        here.delete_pod()
        assert answer.result(60).status_code == 200


def test_what_no_card_can_do_is_told_before_anything_is_stored(here: PodBackend) -> None:
    def refused(name: str, *gpus: str, engine: str = "command") -> str:
        extras = {**wish(*gpus), "engine": {"name": engine, "options": ["x"]}, "model": None}
        answer = here.http.post("/v2/serverless", json={"name": name, "nbgpu": extras})
        assert answer.status_code == 503, answer.text
        return str(answer.json()["nbgpu"]["what"] + " " + answer.json()["nbgpu"]["next"])

    assert "Did you mean 'H100'" in refused("typo", "H10")
    own = refused("own", "H100", engine="vllm")
    assert "no H100 that vllm can use" in own and "vllm serve MODEL --port {port}" in own


def test_the_place_that_has_the_card_is_taken(tmp_path: Path, driver: Path) -> None:
    needs_sshd()
    with serving(Sshd(tmp_path / "server")) as server:
        (server.home / ".bashrc").write_text(f"PATH={driver}:$PATH\n")
        backend = HostsBackend(tmp_path / "home", {"lab1": server})
        backend.start()
        try:
            backend.deploy("far", nbgpu=wish("L4", on="local,lab1"))
            assert backend.chat("far").status_code == 200
            (worker,) = backend.workers("far")
            assert worker["nbgpu"]["place"] == "lab1"
            assert visible(backend.row("far")["workers"][0]["pid"]) == "GPU-bbb"
            facts = " ".join(backend.get("/nbgpu/v1/why/far")["facts"])
            assert "not on local L4: there is none here" in facts
            listed = backend.get("/nbgpu/v1/offers")["offers"]
            free = {(one["place"], one["gpu"]): one["free"] for one in listed}
            assert free["lab1", "L4"] == 0 and free["lab1", "H100"] == 1
            # a backend that starts while the host is away does not say that it has no such card
            backend.kill()
            server.hang_up()
            backend.start()
            backend.deploy("other", nbgpu=wish("H100", on="lab1"))
            server.start()
            assert backend.chat("other").status_code == 200
        finally:
            backend.shutdown(everything=True)
