"""What is refused about a handler before anything is stored, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from nbgpu_backend.engines.handler import folder
from nbgpu_backend.engines.handler.requirements import Requirements
from nbgpu_backend.errors import BadRequest, NotFound

HANDLER = 'import runpod\nrunpod.serverless.start({"handler": lambda job: job["input"]})\n'
NONE = Requirements(("runpod==1.12.0",))


def write(place: Path, files: dict[str, str] | None = None) -> Path:
    """Files by name; returns handler.py."""
    for name, text in {"handler.py": HANDLER, **(files or {})}.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return place / "handler.py"


# the file


def test_a_typo_in_the_name_is_answered_with_the_file_that_is_there(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(NotFound) as caught:
        folder.find("handlr.py", tmp_path)
    assert str(caught.value) == (
        f"There is no file handlr.py in {tmp_path}. Did you mean handler.py?"
    )
    with pytest.raises(NotFound, match="There is no folder"):
        folder.find("nowhere/handler.py", tmp_path)


@pytest.mark.parametrize(
    ("ref", "says"),
    [(".", "is a folder"), ("notes.txt", "ends in .py"), ("/dev/null", "no regular file")],
)
def test_what_is_no_python_file_is_refused(tmp_path: Path, ref: str, says: str) -> None:
    write(tmp_path, {"notes.txt": ""})
    with pytest.raises(BadRequest, match=says):
        folder.find(ref, tmp_path)


def test_a_link_is_followed_to_the_folder_that_python_will_use(tmp_path: Path) -> None:
    real = write(tmp_path / "real")
    (tmp_path / "link.py").symlink_to(real)
    assert folder.find("link.py", tmp_path) == real


# its source


@pytest.mark.parametrize(
    "source",
    [
        HANDLER,
        "import runpod as rp\nrp.serverless.start({})",
        "import runpod.serverless\nrunpod.serverless.start({})",
        "import runpod.serverless as s\ns.start({})",
        "from runpod import serverless\nserverless.start({})",
        "from runpod import serverless as s\nif __name__ == '__main__':\n    s.start({})",
        "from runpod.serverless import start\nstart({})",
        "from runpod.serverless import start as go\ngo({})",
        "from runpod.serverless import *\nstart({})",
        "import runpod\ndef main():\n    begin = runpod.serverless.start\n    begin({})\nmain()",
        "import runpod\nasyncio_like(runpod.serverless.start, {})",
        # perhaps another file does it
        "import worker\nworker.run()",
        "from parts.worker import run\nrun()",
        "from .worker import run",
        "import importlib\nimportlib.import_module('work' + 'er').run()",
        "# -*- coding: latin-1 -*-\nimport runpod\nrunpod.serverless.start({'name': 'J\xfcrgen'})",
    ],
)
def test_a_file_that_starts_the_sdk_in_some_way_passes(tmp_path: Path, source: str) -> None:
    (tmp_path / "parts").mkdir()
    file = write(tmp_path, {"worker.py": ""})
    file.write_bytes(source.encode("latin-1" if "latin-1" in source else "utf-8"))
    folder.check(file)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "import runpod\ndef handler(job): return 1",
        "import runpod\nrunpod.serverless.progress_update({}, 1)",
        "import threading\nthreading.Thread().start()",
        "import runpod\nruntime = object()\nruntime.serverless.start({})",
        "from serverless import start\nstart({})",
        "import numpy",
    ],
)
def test_a_file_that_never_starts_it_is_refused_with_an_example(
    tmp_path: Path, source: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        folder.check(write(tmp_path, {"handler.py": source}))
    assert "handler.py nowhere calls runpod.serverless.start" in caught.value.what
    assert "\n    import runpod\n" in caught.value.next_step


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import runpod\ndef f(:\n", "handler.py, line 2: invalid syntax."),
        ("%pip install x\n", "handler.py, line 1: invalid syntax."),
        ("if 1:\nx = 1\n", "handler.py, line 2: expected an indented block"),
        ("x = 'a\0b'", "null bytes"),
    ],
)
def test_a_file_that_does_not_parse_is_refused_with_its_line(
    tmp_path: Path, source: str, says: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        folder.check(write(tmp_path, {"handler.py": source}))
    assert says in caught.value.what


def test_the_line_is_shown_as_python_shows_it(tmp_path: Path) -> None:
    with pytest.raises(BadRequest) as caught:
        folder.check(write(tmp_path, {"handler.py": "if 1:\n    def f(:\n"}))
    assert caught.value.next_step.endswith("\n    def f(:\n          ^")


# what stands beside it


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("queue.py", "queue.py beside the handler hides Python's own module `queue`."),
        ("types.py", "hides Python's own module `types`."),
        ("json/__init__.py", "json/ beside the handler hides Python's own module `json`."),
        ("select.cpython-311-x86_64-linux-gnu.so", "hides Python's own module `select`."),
        ("time.py", "time.py beside the handler has the name of Python's own module `time`"),
        ("requests.py", "hides the module `requests`, which the runpod package needs."),
        ("runpod.py", "hides the module `runpod`, which the runpod package needs."),
        ("aiohttp/__init__.py", "hides the module `aiohttp`"),
        ("rare.py", "hides the module `rare`"),
    ],
)
def test_a_name_that_hides_another_module_is_refused(tmp_path: Path, name: str, says: str) -> None:
    file = write(tmp_path)
    write(tmp_path, {name: ""})
    with pytest.raises(BadRequest) as caught:
        folder.check(file, modules=["rare"])
    assert says in caught.value.what and "Rename" in caught.value.next_step


@pytest.mark.parametrize("name", ["queue.py", "runpod.py"])
def test_so_is_a_handler_that_is_itself_called_so(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(HANDLER)
    with pytest.raises(BadRequest, match=f"{name} beside the handler hides"):
        folder.check(tmp_path / name)


def test_names_that_hide_nothing_pass(tmp_path: Path) -> None:
    for place in ("json", "test", "requests", "my_queue", ".venv"):
        (tmp_path / place).mkdir()
    (tmp_path / "json" / "data.json").write_text("{}")  # no package: Python's own comes first
    (tmp_path / "requests" / "one.txt").write_text("")
    file = write(tmp_path, dict.fromkeys(["queue.json", "types.pyi", "utils.py", "test.py"], ""))
    folder.check(file)


# its revision


def test_an_edit_anywhere_in_the_code_is_another_revision(tmp_path: Path) -> None:
    file = write(tmp_path, {"util.py": "a = 1", "deep/er/more.py": "b = 1"})
    first = folder.revision(file, NONE)
    assert folder.revision(file, NONE) == first and len(first.revision) == 12
    seen = {first.revision}
    for name in ("handler.py", "util.py", "deep/er/more.py", "new.py"):
        (tmp_path / name).write_text(HANDLER + "# edited")
        seen.add(folder.revision(file, NONE).revision)
    seen.add(folder.revision(file, Requirements(("numpy", "runpod==1.12.0"))).revision)
    assert len(seen) == 6


def test_what_is_no_code_of_the_handler_does_not_count(tmp_path: Path) -> None:
    file = write(tmp_path)
    first = folder.revision(file, NONE)
    for name in ("__pycache__/a.py", ".git/a.py", "venv/a.py", "mine/pyvenv.cfg", "mine/a.py",
                 "data.csv", ".hidden.py"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "huge.py").write_text("#" * 1_100_000)
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere.py")
    assert folder.revision(file, NONE) == first


def test_a_large_tree_is_looked_at_up_to_a_bound(tmp_path: Path) -> None:
    write(tmp_path)
    for i in range(600):
        (tmp_path / f"m{i}.py").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = folder.python_files(tmp_path)
    assert len(found) == folder.MOST_FILES and found[0].name == "handler.py"
