"""GPUs of this machine, and which of them a pod gets."""

from __future__ import annotations

import pytest
from nbgpu_backend.domain.gpus import offers, pick
from nbgpu_backend.domain.placement import Wanted, choose, gpu_list
from nbgpu_backend.providers.local.gpus import parse

LISTED = """0, GPU-aaa, NVIDIA H100 80GB HBM3, 81559
1, GPU-bbb, NVIDIA H100 80GB HBM3, 81559
2, GPU-ccc, NVIDIA GeForce RTX 4090, 24564
[N/A], nonsense
"""
HERE = [(0, "H100"), (1, "H100"), (2, "RTX 4090")]


def test_they_are_called_as_one_asks_for_them() -> None:
    found = parse(LISTED)
    assert [(gpu.index, gpu.name) for gpu in found] == HERE
    assert found[0].memory == 81559 << 20


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("Tesla T4", "T4"),
        ("NVIDIA L40S", "L40S"),
    ],
)
def test_names_are_short(said: str, name: str) -> None:
    assert parse(f"0, GPU-x, {said}, 1024")[0].name == name


def test_a_pod_gets_what_no_other_has() -> None:
    assert pick(HERE, {0}, "H100", 1) == [1]
    taken = offers(HERE, {0, 1})
    choice = choose(Wanted(gpu_list(["H100", "RTX 4090"])), taken, {}, {}, 0.0)
    assert (choice.gpu, choice.count) == ("RTX 4090", 1)
    assert "0 of 2 are free" in choice.skipped[0].text


def test_two_of_a_type_want_two_free_ones() -> None:
    choice = choose(Wanted(gpu_list(["H100:2"])), offers(HERE, {1}), {}, {}, 0.0)
    assert choice.gpu is None and choice.ever
