"""Pods from container images, with a real podman and an image of this machine's Python."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from nbgpu_backend.providers.local import records

from tests.support.podman import BARE, IMAGE, Podman, podman, registry
from tests.support.pods import PodBackend, SpawnedBackend, path_without, processes_with
from tests.support.waiting import until
from tests.support.wheels import index, wheel

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="containers run on Linux")


@pytest.fixture(scope="module")
def engine() -> Iterator[Podman]:
    with podman() as made:
        yield made


@pytest.fixture
def home(tmp_path: Path, engine: Podman) -> Iterator[PodBackend]:
    backend = SpawnedBackend(tmp_path / "home")
    backend.environment |= engine.environment
    backend.start()
    yield backend
    backend.shutdown(everything=True)
    assert engine.containers() == []


def shim_of(backend: PodBackend) -> int:
    (folder,) = backend.home.instances.iterdir()
    state = records.read_state(folder)
    assert state is not None
    return state.shim


def why(backend: PodBackend) -> str:
    """The reason of a pod that fails."""
    until(lambda: backend.state() == "failed", within=60)
    return str(backend.pod()["nbgpu"]["reason"]["text"])


def test_a_pod_from_an_image_is_opened_used_stopped_started_and_deleted(
    home: PodBackend, engine: Podman
) -> None:
    pod = home.open_pod(image=IMAGE, env={"COLOUR": "red"})
    assert (pod["image"], pod["nbgpu"]["isolation"]) == (IMAGE, "container")
    assert pod["nbgpu"]["isolationText"].startswith(f"a container (podman) of {IMAGE}: ")
    inside = "import os; print(open('/etc/image').read(), os.getcwd(), os.environ['COLOUR'])"
    assert home.printed(inside) == "an image of the tests\n /workspace red\n"
    assert home.printed(f"print(os.path.exists({str(home.home.root)!r}))") == "False\n"
    home.run("open('kept.txt', 'w').write('here'); open('/left.txt', 'w').write('there')")
    assert Path(pod["nbgpu"]["workspace"], "kept.txt").read_text() == "here"
    (container,) = engine.containers()
    assert "COLOUR" not in engine("inspect", container)  # nor, then, a secret

    stopped = home.stop_pod()
    assert stopped["nbgpu"]["reason"]["text"] == "stopped by you"
    assert engine.containers() == []
    home.http.post("/v2/pods/train/action", json={"action": "start"}).raise_for_status()
    home.pod_ready()
    cell = "import os; print(open('kept.txt').read(), os.path.exists('/left.txt'))"
    assert home.printed(cell) == "here False\n"

    home.run("import subprocess; subprocess.Popen(['setsid', 'sleep', '98771'])")
    until(lambda: processes_with("98771"))
    home.delete_pod()
    assert engine.containers() == [] and processes_with("98771") == []
    folders = [home.home.root / "pods", home.home.root / "volumes", home.home.instances]
    assert not any(any(folder.iterdir()) for folder in folders)


def test_nothing_is_left_where_the_shim_is_killed_and_a_backend_adopts_what_runs(
    home: PodBackend, engine: Podman
) -> None:
    home.open_pod(image=IMAGE)
    home.run("kept = 1")
    home.kill()
    home.start()
    home.pod_ready()
    assert home.printed("print(kept)") == "1\n"

    label = '{{index .Config.Labels "nbgpu.installation"}}'
    ours = engine("inspect", "--format", label, *engine.containers())
    home.kill()
    os.kill(shim_of(home), signal.SIGKILL)
    until(lambda: engine.containers() == [])  # though nobody helps
    engine("run", "--detach", "--stop-timeout", "0", "--network", "none", "--name", "left",
           "--label", f"nbgpu.installation={ours}", BARE, "sleep", "98772")  # fmt: skip
    home.start()
    until(lambda: home.state() == "failed")
    assert home.pod()["nbgpu"]["reason"]["code"] == "lost"
    until(lambda: engine.containers() == [] and not processes_with("98772"))


def test_one_that_eats_memory_ends_with_the_reason(home: PodBackend, engine: Podman) -> None:
    home.open_pod(image=IMAGE, network="none", limits={"memoryBytes": 300_000_000})
    assert home.printed("import socket; print(socket.if_nameindex())") == "[(1, 'lo')]\n"
    home.start_run("import time\nheld = []\nwhile True: held.append(b'x' * 10**7); time.sleep(.05)")
    assert "are allowed" in why(home)
    assert engine.containers() == []


def test_what_an_image_lacks_is_installed_or_said(tmp_path: Path, engine: Podman) -> None:
    wheel(tmp_path / "nbgpu-tiny", "nbgpu-tiny", "1.0", {"nbgpu_tiny.py": "SIZE = 3"})
    backend = SpawnedBackend(tmp_path / "home")
    with index(tmp_path) as url:
        backend.environment |= {**engine.environment, "PIP_INDEX_URL": url}
        backend.start()
        try:
            backend.open_pod(image=IMAGE, requirements=["nbgpu-tiny==1.0"])
            assert backend.printed("import nbgpu_tiny; print(nbgpu_tiny.SIZE)") == "3\n"
            backend.delete_pod()
            backend.open_pod(image=IMAGE, requirements=["nbgpu-tiny==2.0"], wait=False)
            assert "no package fits nbgpu-tiny==2.0 (there are 1.0)" in why(backend)
            backend.delete_pod()
            backend.open_pod(image=BARE, wait=False)
            assert f"{BARE} cannot be a pod: it has no python3" in why(backend)
        finally:
            backend.shutdown(everything=True)


def test_one_that_is_still_installed_into_can_be_given_up(tmp_path: Path, engine: Podman) -> None:
    backend = SpawnedBackend(tmp_path / "home")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        backend.environment |= {**engine.environment, "PIP_INDEX_URL": url}
        backend.start()
        try:
            backend.open_pod(image=IMAGE, requirements=["nbgpu-tiny"], wait=False)
            asked, _ = silent.accept()  # pip waits for an answer
            asked.close()
            backend.delete_pod()
            assert engine.containers() == []
        finally:
            backend.shutdown(everything=True)


def test_an_image_is_pulled_where_it_is_not_here(home: PodBackend, engine: Podman) -> None:
    with registry(engine, BARE) as name:
        home.open_pod(image=name, wait=False)
        assert "has no python3" in why(home)
        assert name.rpartition(":")[0] in engine("images")
        home.delete_pod()
        other = name.replace("there", "elsewhere")
        home.open_pod(image=other, wait=False)
        assert f"There is no image {other}" in why(home)


def test_an_image_that_is_nowhere_is_named(home: PodBackend) -> None:
    home.open_pod(image="localhost/nbgpu-none:1", wait=False)
    said = why(home)
    assert "localhost/nbgpu-none:1 is not here, and its registry cannot be reached" in said
    home.delete_pod()
    for body, words in (
        ({"image": "--privileged"}, "is no name of an image"),
        ({"image": IMAGE, "args": "serve"}, "a pod runs a kernel in its place"),
        ({"args": "serve"}, "a pod runs a kernel in its place"),
    ):
        answer = home.http.post("/v2/pods", json={"name": "t", **body})
        assert answer.status_code == 400 and words in answer.text


def test_where_no_engine_works_an_image_is_refused(tmp_path: Path) -> None:
    backend = SpawnedBackend(tmp_path / "home")
    path = Path(path_without(tmp_path / "bin", "podman", "docker"))
    backend.environment["PATH"] = str(path)
    (path / "docker").write_text("#!/bin/sh\necho 'Is the daemon running?' >&2\nexit 1\n")
    (path / "docker").chmod(0o755)
    backend.start()
    try:
        refused = backend.http.post("/v2/pods", json={"name": "t", "image": IMAGE})
        assert refused.status_code == 503
        assert "docker is installed, but its daemon does not answer" in refused.text
        assert "Is the daemon running" in refused.text
        assert backend.get("/v2/pods")["pods"] == []
    finally:
        backend.shutdown(everything=True)
