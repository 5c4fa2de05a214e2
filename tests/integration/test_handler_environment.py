"""Environments of handlers, built by the real pip: once, whole, or not at all."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from nbgpu_backend import runtime
from nbgpu_backend.engines.handler.builder import Builder
from nbgpu_backend.engines.handler.environment import Environment
from nbgpu_backend.errors import BadRequest, EngineMissing, NotFound, UpstreamError
from nbgpu_backend.home import Home
from nbgpu_backend.providers.local import procfs

from tests.support.handlers import handler_folder, tiny_world
from tests.support.waiting import until
from tests.support.wheels import endless, source, wheel


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return tiny_world(tmp_path, monkeypatch)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def children() -> list[int]:
    """Living processes whose session one of this test's builds leads."""
    mine = os.getpid()
    rows = procfs.processes()
    leaders = {row.pid for row in rows if row.ppid == mine and builds(row.pid)}
    return [row.pid for row in rows if row.alive and row.session in leaders]


def builds(pid: int) -> bool:
    """Other children are backends of other tests."""
    return b"engines.handler" in Path(f"/proc/{pid}/cmdline").read_bytes()


async def build(home: Home, handler: Path) -> tuple[Path, list[str]]:
    """(folder, what it told)."""
    told: list[str] = []
    folder = await Builder(home).build(handler, told.append)
    return folder, told


def module_there(place: Path, module: str) -> bool:
    done = subprocess.run(
        [place / "bin" / "python", "-I", "-c", f"import {module}"], capture_output=True
    )
    return done.returncode == 0


async def test_the_real_sdk_and_a_package_of_ones_own(tmp_path: Path, home: Home) -> None:
    """Kept where engines are, so that it is built once a machine."""
    if "NBGPU_ENGINES" not in os.environ:
        pytest.skip("NBGPU_ENGINES is not set: `make test` sets it")
    handler = handler_folder(tmp_path / "h", "emoji\n")
    folder, _ = await build(home, handler)
    done = subprocess.run(
        [folder / "bin" / "python", handler, "--test_input", '{"input": {"n": 7}}'],
        env={"HOME": str(tmp_path), "PATH": os.defpath}, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert "{'n': 7}" in done.stdout and done.returncode == 0, done.stdout + done.stderr
    assert module_there(folder, "emoji")
    facts = Environment(folder).facts()
    assert facts["runpod"] == "1.12.0" and facts["requirements"] == ["emoji", "runpod==1.12.0"]
    assert {"runpod", "aiohttp", "requests"} <= set(facts["modules"])
    assert "emoji" not in facts["modules"]  # the user's own may be shadowed: the SDK does not mind


async def test_it_is_built_with_progress_and_found_again(
    wheels: Path, tmp_path: Path, home: Home
) -> None:
    wheel(wheels, "mine", "2.0", {"mine.py": ""})
    handler = handler_folder(tmp_path / "h", "mine>=1  # of ours")
    folder, told = await build(home, handler)
    assert folder == Environment.beside(home, handler).folder and Builder(home).ready(handler)
    assert told[0] == "an empty environment"
    assert "collecting mine" in told or "fetching mine" in told
    assert any(line.startswith("unpacking ") and line.endswith(" of 3)") for line in told)
    assert module_there(folder, "mine") and module_there(folder, "runpod")
    assert Environment(folder).facts()["modules"] == ["runpod", "small_need"]
    assert (await build(home, handler))[1] == []  # nothing to do

    # the same requirements elsewhere
    twin = handler_folder(tmp_path / "twin", "\n# also\nmine>=1\n")
    assert (await Builder(home).look("handler.py", twin.parent)).ready
    # edited ones are others
    handler_folder(tmp_path / "h", "mine>=1.5")
    assert not Builder(home).ready(handler)


async def test_a_requirement_that_cannot_be_met_is_named(
    wheels: Path, tmp_path: Path, home: Home
) -> None:
    wheel(wheels, "mine", "2.0", {"mine.py": ""})
    handler = handler_folder(tmp_path / "h", "mine==3\n")
    with pytest.raises(EngineMissing) as caught:
        await build(home, handler)
    assert "no package fits mine==3 (there are 2.0)" in caught.value.what
    assert f"Correct {handler.parent / 'requirements.txt'}" in caught.value.next_step
    place = Environment.beside(home, handler)
    assert not place.folder.exists()  # other requirements will be tried: nobody comes back for it
    assert "mine==3" in place.log.read_text() and str(place.log) in caught.value.next_step

    handler_folder(tmp_path / "h", "mine==2\n")
    await build(home, handler)
    assert Builder(home).ready(handler)


async def test_a_package_that_does_not_build_is_named_with_its_own_last_words(
    wheels: Path, tmp_path: Path, home: Home
) -> None:
    source(wheels, "broken", "1.0", "raise OSError('no compiler here')")
    with pytest.raises(EngineMissing) as caught:
        await build(home, handler_folder(tmp_path / "h", "broken"))
    assert "broken" in caught.value.what and "could not be built" in caught.value.what
    assert "no compiler here" in caught.value.what


async def test_requirements_that_name_the_sdk_for_elsewhere_only_are_told(
    wheels: Path, tmp_path: Path, home: Home
) -> None:
    handler = handler_folder(tmp_path / "h", "runpod==1.12.0; sys_platform == 'win32'")
    with pytest.raises(EngineMissing, match="not for this Python and machine"):
        await build(home, handler)


async def test_two_builders_at_once_build_it_once(wheels: Path, tmp_path: Path, home: Home) -> None:
    handler = handler_folder(tmp_path / "h")
    (one, told), (two, also) = await asyncio.gather(build(home, handler), build(home, handler))
    assert one == two and Environment(one).complete
    waited = [lines for lines in (told, also) if "an empty environment" not in lines]
    assert waited == [["another process is building it: waiting for that"]]


async def test_a_build_that_is_killed_is_never_taken_for_a_finished_one(
    wheels: Path, tmp_path: Path, home: Home
) -> None:
    begun = endless(wheels, "slow")
    handler = handler_folder(tmp_path / "h", "slow")
    place = Environment.beside(home, handler)
    first = asyncio.create_task(Builder(home).build(handler))
    await asyncio.to_thread(until, begun.exists)
    (leader,) = {row.session for row in procfs.processes() if row.pid in children()}
    os.killpg(leader, signal.SIGKILL)
    with pytest.raises(UpstreamError, match="ended without a result"):
        await first
    assert place.folder.exists() and not place.complete and not Builder(home).ready(handler)

    # the build of another environment takes the leftover away: nobody works on it
    await build(home, handler_folder(tmp_path / "other"))
    assert not place.folder.exists()
    wheel(wheels, "slow", "1.0", {"slow.py": ""})
    await build(home, handler)
    assert place.complete and module_there(place.folder, "slow")


async def test_the_leftover_of_a_living_build_is_left_alone(
    wheels: Path, tmp_path: Path, home: Home
) -> None:
    begun = endless(wheels, "slow")
    handler = handler_folder(tmp_path / "h", "slow")
    first = asyncio.create_task(Builder(home).build(handler))
    await asyncio.to_thread(until, begun.exists)
    await build(home, handler_folder(tmp_path / "other"))
    assert Environment.beside(home, handler).python.exists() and not first.done()

    # and cancelling it ends pip and what pip had started
    running = children()
    assert len(running) > 2
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    until(lambda: all(runtime.start_time(pid) is None for pid in running))
    assert not Builder(home).ready(handler)


def test_a_build_dies_with_its_parent(wheels: Path, tmp_path: Path, home: Home) -> None:
    begun = endless(wheels, "slow")
    handler = handler_folder(tmp_path / "h", "slow")
    script = f"""
import asyncio
from pathlib import Path
from nbgpu_backend.engines.handler.builder import Builder
from nbgpu_backend.home import Home
asyncio.run(Builder(Home(Path({str(home.root)!r}))).build(Path({str(handler)!r})))
"""
    with subprocess.Popen([sys.executable, "-c", script]) as parent:
        until(begun.exists)
        (child,) = [row.pid for row in procfs.processes() if row.ppid == parent.pid]
        running = [row.pid for row in procfs.processes() if row.session == child]
        assert len(running) > 2  # pip, and what it builds with
        parent.kill()
    until(lambda: all(runtime.start_time(pid) is None for pid in running))


async def test_a_look_tells_what_is_wrong(wheels: Path, tmp_path: Path, home: Home) -> None:
    handler = handler_folder(tmp_path / "h", "-e .")
    look = Builder(home).look
    with pytest.raises(NotFound, match=r"Did you mean handler\.py"):
        await look("handlr.py", handler.parent)
    with pytest.raises(BadRequest, match="to be edited"):
        await look("handler.py", handler.parent)
    handler_folder(tmp_path / "h")
    (handler.parent / "queue.py").touch()
    with pytest.raises(BadRequest, match="hides Python's own module") as caught:
        await look("handler.py", handler.parent)
    assert caught.value.code == "handler_shadows"
    (handler.parent / "queue.py").unlink()
    (handler.parent / "small_need.py").touch()
    found = await look("handler.py", handler.parent)
    assert found.path == handler and not found.ready and found.bytes == len(handler.read_bytes())
    await build(home, handler)
    with pytest.raises(BadRequest, match="small_need"):  # now it is known what came with the SDK
        await look("handler.py", handler.parent)


def test_facts_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_text(json.dumps({"a": 1})[:-1])
    assert Environment(tmp_path).facts() == {}
