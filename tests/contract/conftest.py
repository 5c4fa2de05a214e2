"""One backend for the whole suite; each test deploys handlers of the zoo under names of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.backend import BackendProcess
from tests.support.serverless import Jobs, processes_of
from tests.support.waiting import until

ZOO = Path(__file__).parent / "zoo"
BUILD_S = 280.0  # of an environment that this machine does not have yet

Deploy = Callable[..., Jobs]


@pytest.fixture(scope="session")
def serverless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendProcess]:
    """Handlers' environments are those of the machine's cache; what ran is gone in the end."""
    with pytest.MonkeyPatch.context() as patch:
        if "NBGPU_ENGINES" not in os.environ:
            patch.setenv("NBGPU_ENGINES", str(Path("~/.cache/nbgpu/engines").expanduser()))
        process = BackendProcess(tmp_path_factory.mktemp("serverless") / "home")
        process.start()
        yield process
        process.shutdown(everything=True)
        until(lambda: not processes_of(process.home.root))


def deploy_handler(process: BackendProcess, name: str, file: Path, **body: Any) -> Jobs:
    """Return once its environment is there. `policy`, `options` are those of `nbgpu`."""
    nbgpu: dict[str, Any] = {
        "engine": {"name": "handler", "options": body.pop("options", [])},
        "model": str(file),
        "policy": body.pop("policy", {}),
    }
    process.deploy(name, nbgpu=nbgpu, **body)
    until(lambda: process.row(name)["state"] != "fetching", within=BUILD_S)
    return Jobs(process, name)


@pytest.fixture(scope="session")
def deleter() -> Iterator[ThreadPoolExecutor]:
    """Endpoints go while the next test runs: a worker that does not end by itself takes 10 s."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


_numbers = count(1)


@pytest.fixture
def deploy(serverless: BackendProcess, deleter: ThreadPoolExecutor) -> Iterator[Deploy]:
    """`deploy("raises.py")` -> its Jobs, on one worker; it is gone after the test."""
    made: list[Jobs] = []

    def one(file: str, **body: Any) -> Jobs:
        name = f"{Path(file).stem.replace('_', '-')}-{next(_numbers)}"
        made.append(deploy_handler(serverless, name, ZOO / file, **body))
        return made[-1]

    yield one
    for jobs in made:
        deleter.submit(jobs.delete)
