"""One way to start each real part."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from nbgpu_backend.engines.vllm.environment import Environment
from nbgpu_backend.home import Home

from tests.support import tiny_model
from tests.support.backend import BackendProcess
from tests.support.jupyter import JupyterProcess
from tests.support.ssh_pods import build_engines


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[BackendProcess]:
    """A backend of this test alone; whatever it started is ended."""
    yield from _backend(tmp_path / "home")


@pytest.fixture(scope="module")
def shared_backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendProcess]:
    """A backend of this module's tests: each uses endpoint names of its own."""
    yield from _backend(tmp_path_factory.mktemp("shared") / "home")


def _backend(home: Path) -> Iterator[BackendProcess]:
    process = BackendProcess(home)
    process.start()
    yield process
    process.shutdown(everything=True)


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterProcess]:
    """A Jupyter server with the panel's extension; its backend starts with the first request that wants it."""
    process = JupyterProcess(tmp_path_factory.mktemp("jupyter"))
    process.start()
    yield process
    process.stop()


@pytest.fixture(scope="session")
def engine() -> Environment:
    """The real engine's environment; `make test` installs it."""
    if "NBGPU_ENGINES" not in os.environ:
        pytest.skip("NBGPU_ENGINES is not set: `make test` sets it and installs the engine there")
    environment = Environment.of(Home.default())
    if not environment.complete:
        pytest.skip(f"no engine in {environment.folder}: run `make engine`")
    return environment


@pytest.fixture(scope="session")
def pod_engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environments of pods on hosts, shared by all hosts of the run. One is built here: a host in a
    network of its own reaches no package index."""
    return build_engines(tmp_path_factory.mktemp("pod-engines"))


@pytest.fixture(scope="session")
def tiny_llama(engine: Environment) -> Path:
    """A random Llama of half a million parameters, made offline, once."""
    return tiny_model.ensure(engine.python, engine.folder.parent / "tiny-llama")


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Iterator[BackendProcess]:
    """A backend with the endpoint `tiny`: a real vLLM worker, kept ready."""
    for process in _backend(tmp_path_factory.mktemp("vllm") / "home"):
        process.deploy(
            "tiny",
            workers={"min": 1, "max": 1},
            nbgpu={"engine": {"name": "vllm"}, "model": str(tiny_llama)},
        )
        process.wait_state("tiny", "ready", 120)
        yield process


if sys.platform != "linux":  # pragma: no cover
    collect_ignore_glob = ["integration/*"]
