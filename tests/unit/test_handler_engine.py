"""How a handler is started: its command line, and an environment that keeps the user's own out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from nbgpu_backend.engines import engine
from nbgpu_backend.engines.base import WorkerSpec
from nbgpu_backend.engines.handler.engine import HandlerEngine
from nbgpu_backend.engines.handler.environment import Environment
from nbgpu_backend.errors import BadOption, EngineMissing
from nbgpu_backend.home import Home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("NBGPU_ENGINES", str(tmp_path / "engines"))
    return Home(tmp_path / "home")


def spec(tmp_path: Path, **more: object) -> WorkerSpec:
    given = {"served_name": "x", "model": tmp_path / "code" / "handler.py", "port": 1, "cpu": 3,
             "options": ["--size", "2"], "env": {"HOME": "/instance", "MINE": "1"},
             "endpoint": "ep-1", "worker": "w-1"}  # fmt: skip
    return WorkerSpec(**{**given, **more})  # type: ignore[arg-type]


def install(home: Home, handler: Path) -> Environment:
    """An environment that looks finished."""
    handler.parent.mkdir(exist_ok=True)
    place = Environment.beside(home, handler)
    place.python.parent.mkdir(parents=True)
    place.python.symlink_to(sys.executable)
    place.marker.touch()
    return place


def test_it_is_started_through_the_relay_in_its_own_folder(home: Home, tmp_path: Path) -> None:
    handler = tmp_path / "code" / "handler.py"
    place = install(home, handler)
    made = engine("handler", home).command(spec(tmp_path))
    assert made.argv[:4] == [sys.executable, "-I", "-S", "-E"]
    assert made.argv[4].endswith("nbgpu_backend/relay.py")
    assert made.argv[5:] == [
        "--endpoint", "ep-1", "--worker", "w-1", "--cwd", str(handler.parent), "--",
        str(place.python), "-u", str(handler), "--size", "2",
    ]  # fmt: skip
    assert made.key_variable is None


def test_nothing_of_the_users_own_environment_reaches_it(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RUNPOD_API_KEY", "PYTHONPATH", "HTTP_PROXY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "leak")
    monkeypatch.setenv("TZ", "UTC")
    place = install(home, tmp_path / "code" / "handler.py")
    env = (
        engine("handler", home)
        .command(spec(tmp_path, env={"HOME": "/i", "OMP_NUM_THREADS": "9"}))
        .env
    )
    assert "leak" not in env.values()
    assert env["HOME"] == "/i" and env["TZ"] == "UTC"
    assert env["PATH"].startswith(f"{place.folder}/bin:")
    assert env["RUNPOD_SKIP_AUTO_SYSTEM_CHECKS"] == "true" and env["RUNPOD_LOG_LEVEL"] == "INFO"
    assert env["OMP_NUM_THREADS"] == "9" and env["MKL_NUM_THREADS"] == "3"


def test_without_its_environment_it_is_not_started(home: Home, tmp_path: Path) -> None:
    place = install(home, tmp_path / "code" / "handler.py")
    place.python.unlink()  # the Python that it was made with was removed
    with pytest.raises(EngineMissing, match="is not installed"):
        engine("handler", home).command(spec(tmp_path))


@pytest.mark.parametrize("word", ["--rp_serve_api", "--test_input", "--test_input={}", "--test"])
def test_options_that_take_no_jobs_are_refused(home: Home, word: str) -> None:
    with pytest.raises(BadOption, match="never ask for a job"):
        HandlerEngine(home).check_options([word])
    HandlerEngine(home).check_options(["--rp_log_level", "DEBUG", "--size", "2", "plain", "--t"])
