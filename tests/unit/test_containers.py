"""What podman and docker are asked, and what is made of their answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nbgpu_backend.errors import DiskError, Unavailable
from nbgpu_backend.providers.containers import (
    NAME,
    Box,
    Engine,
    Pulling,
    docker,
    last,
    no_image,
    podman,
    removal,
    run,
)
from nbgpu_backend.providers.local.pod_container import for_images

PODMAN = Engine("podman", "/usr/bin/podman", "0:0", True, frozenset({"memory", "pids"}))
DOCKER = Engine("docker", "/usr/bin/docker", "1000:1000", False, frozenset({"memory"}))
BOX = Box(
    name="nbgpu-i-p-1-2", installation="i", image="pytorch/pytorch:2", hostname="train",
    shown=[("/a/code", "/run/agent")], owned=[("/a/home", "/home/pod"), ("/a/work", "/workspace")],
    network=False, gpus=["GPU-a", "GPU-b"], memory=8_000, processes=64, cwd="/run/nbgpu",
)  # fmt: skip


def after(words: list[str], option: str) -> list[str]:
    """All values of an option."""
    return [words[i + 1] for i, word in enumerate(words) if word == option]


def test_a_container_gets_the_pods_folders_and_nothing_else() -> None:
    words = run(PODMAN, BOX, ["python3", "/run/agent/contained.py"])
    assert words[:2] == ["/usr/bin/podman", "run"]
    assert {"--rm", "--interactive"} <= set(words)
    assert after(words, "--mount") == [
        "type=bind,source=/a/work,target=/workspace",
        "type=bind,source=/a/home,target=/home/pod",
        "type=bind,source=/a/code,target=/run/agent,readonly",
    ]
    assert after(words, "--network") == ["none"] and after(words, "--user") == ["0:0"]
    assert after(words, "--label") == ["nbgpu.installation=i"]
    assert words[-4:] == ["--entrypoint", "python3", "pytorch/pytorch:2", "/run/agent/contained.py"]


def test_each_engine_is_asked_for_gpus_and_limits_in_its_own_way() -> None:
    words = run(PODMAN, BOX, ["python3"])
    assert after(words, "--device") == ["nvidia.com/gpu=GPU-a", "nvidia.com/gpu=GPU-b"]
    assert after(words, "--memory") == ["10000b"]  # its shim sees it before, and says why
    assert after(words, "--pids-limit") == ["64"]
    words = run(DOCKER, BOX, ["python3"])
    assert after(words, "--gpus") == ['"device=GPU-a,GPU-b"']
    assert after(words, "--memory") == ["8000b"]
    assert "--pids-limit" not in words and "--device" not in words


def test_what_an_engine_says_of_itself() -> None:
    said = {"host": {"cgroupControllers": ["cpu", "memory"], "security": {"rootless": True}}}
    assert podman("podman", json.dumps(said)).limits == {"memory"}
    able = {"ServerVersion": "28.2.2", "MemoryLimit": True, "PidsLimit": True}
    found = docker("docker", json.dumps(able), "1000:1000")
    assert (found.user, found.limits) == ("1000:1000", {"memory", "pids"})
    rootless = {**able, "SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"]}
    assert docker("docker", json.dumps(rootless), "1000:1000").user == "0:0"


@pytest.mark.parametrize("said", ["", "[]", "{}", '{"ServerErrors": ["no daemon"]}'])
def test_what_is_no_answer_of_an_engine(said: str) -> None:
    with pytest.raises(ValueError):
        podman("podman", said)
    with pytest.raises(ValueError):
        docker("docker", said, "0:0")


def test_a_removal_bears_with_what_is_not_there() -> None:
    assert "--ignore" in removal(PODMAN, "a") and removal(DOCKER, "a", "b")[-2:] == ["a", "b"]


def test_how_far_a_pull_is() -> None:
    pulling = Pulling()
    lines = ["Trying to pull docker.io/library/python:3.12...", "Copying blob sha256:75dd396b08b5",
             "Copying blob sha256:8cc1bd2f1b3c", "Writing manifest to image destination"]  # fmt: skip
    assert [pulling.heard(line) for line in lines] == ["", "layer 1", "layer 2", ""]
    pulling = Pulling()
    lines = ["3.12: Pulling from library/python", "0a96bdb82805: Pulling fs layer",
             "64eb3d5e4fd2: Already exists", "0a96bdb82805: Pull complete"]  # fmt: skip
    words = ["", "0 of 1 layers", "1 of 2 layers", "2 of 2 layers"]
    assert [pulling.heard(line) for line in lines] == words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('Error: short-name "python" did not resolve to an alias and no unqualified-search '
         "registries are defined", "docker.io/library/i"),
        ("Error: initializing source docker://i: reading manifest latest in r/i: manifest unknown",
         "There is no image i, or"),
        ("Error response from daemon: pull access denied for i, repository does not exist or may "
         "require 'docker login'", "There is no image i, or"),
        ('Error: pinging container registry r: Get "https://r/v2/": dial tcp: lookup r: no such '
         "host", "its registry cannot be reached"),
        ("Error: something else.", "could not be pulled: something else."),
    ],
)  # fmt: skip
def test_why_an_image_was_not_pulled(line: str, words: str) -> None:
    error = no_image("i", ["Trying to pull i...", line, ""])
    assert isinstance(error, Unavailable) and words in str(error)


def test_a_full_disk_is_one() -> None:
    tail = ["Error: writing blob: write /var/lib/x: no space left on device"]
    assert isinstance(no_image("i", tail), DiskError)


def test_the_last_word_of_an_engine_is_its_error() -> None:
    tail = ["Error: runc: permission denied.", "see podman run --help", ""]
    assert last(tail) == "runc: permission denied"
    assert last([]) == "it said nothing"


def test_settings_that_mean_something_in_an_image(tmp_path: Path) -> None:
    """A file that a variable names is shown there; another machine's languages are not."""
    certificates = str(tmp_path / "ca.pem")
    Path(certificates).touch()
    env = {"PIP_CERT": certificates, "PIP_INDEX_URL": "http://i/", "LC_ALL": "de_DE.UTF-8",
           "PIP_CONSTRAINT": "/not/there"}  # fmt: skip
    kept, files = for_images(env)
    assert files == [certificates] and "LC_ALL" not in kept and kept["PIP_INDEX_URL"] == "http://i/"


def test_names_of_images() -> None:
    for name in ("python", "docker.io/library/python:3.12", "r:5000/a/b@sha256:00ff"):
        assert NAME.fullmatch(name)
    for name in ("", "-v", "--privileged", "a b", "a\n"):
        assert not NAME.fullmatch(name)
