"""What an environment is made of, and which handlers share one."""

from __future__ import annotations

from pathlib import Path

import pytest
from nbgpu_backend.engines.handler.pip_failures import cause, failure
from nbgpu_backend.engines.handler.requirements import Requirements, read
from nbgpu_backend.errors import BadRequest, DiskError

SDK = "runpod==1.12.0"


def lines(folder: Path, text: str, **others: str) -> tuple[str, ...]:
    folder.mkdir(exist_ok=True)
    for name, content in {"requirements": text, **others}.items():
        (folder / f"{name}.txt").write_text(content)
    return read(folder).lines


def test_without_requirements_there_is_the_sdk_alone(tmp_path: Path) -> None:
    assert read(tmp_path).lines == (SDK,)


def test_what_a_person_reads_only_makes_no_other_environment(tmp_path: Path) -> None:
    plain = lines(tmp_path / "a", "numpy>=2\nidna==3.1 ; python_version > '3'\n")
    written = "\ufeff# ours\n\n  numpy>=2   # fast\n\nidna==3.1 \\\n  ;   python_version > '3'\n"
    assert (
        lines(tmp_path / "b", written)
        == plain
        == ("numpy>=2", "idna==3.1 ; python_version > '3'", SDK)
    )
    assert read(tmp_path / "a").key == read(tmp_path / "b").key
    assert read(tmp_path / "a").key != Requirements((SDK,)).key
    assert Requirements((SDK,), ("a<2",)).key != Requirements((SDK, "a<2")).key


@pytest.mark.parametrize(
    "line",
    [
        "runpod", "runpod==1.10.0", "RunPod>=1", "runpod[x]==1", "runpod @ https://h/r.whl",
        "git+https://github.com/runpod/runpod-python.git@main", "https://h/runpod-1.9-py3-none-any.whl",
        "git+ssh://git@h/x.git#egg=runpod",
    ],
)  # fmt: skip
def test_who_names_the_sdk_gets_that_one(tmp_path: Path, line: str) -> None:
    assert lines(tmp_path, line) == (line,)


@pytest.mark.parametrize(
    "line", ["runpod-flash", "runpods==1", "my-runpod", "https://h/runpodder/x.whl"]
)
def test_what_only_sounds_like_it_does_not_replace_it(tmp_path: Path, line: str) -> None:
    assert lines(tmp_path, line) == (line, SDK)


def test_included_files_are_part_of_it(tmp_path: Path) -> None:
    made = lines(tmp_path, "-r more.txt\nidna\n-cpins.txt", more="--requirement=requirements.txt\ntoolz", pins="toolz<2\n-r more.txt")  # fmt: skip
    assert made == ("toolz", "idna", SDK)
    assert read(tmp_path).constraints == ("toolz<2",)
    key = read(tmp_path).key
    (tmp_path / "pins.txt").write_text("toolz<3")
    assert read(tmp_path).key != key


def test_options_are_pips_and_folders_of_wheels_become_absolute(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    made = lines(
        tmp_path, "--extra-index-url https://h/simple\n-f wheels\n--find-links=./wheels\n--pre"
    )
    where = f"--find-links {tmp_path / 'wheels'}"
    assert made == ("--extra-index-url https://h/simple", where, where, "--pre", SDK)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("-e .", "names a folder to be edited (-e .)"),
        ("--editable=git+https://h/x.git", "names a folder to be edited"),
        ("./pkg", "names a path of this machine (./pkg)"),
        ("pkg/sub", "names a path of this machine"),
        ("/opt/x-1.0-py3-none-any.whl", "names a path of this machine"),
        ("x-1.0-py3-none-any.whl", "names a path of this machine"),
        ("x @ file:///opt/x.whl", "names a path of this machine"),
        ("file:///opt/x.whl", "names a path of this machine"),
        ("-r nowhere.txt", "includes nowhere.txt, and there is no file"),
        ("-r https://h/list.txt", "may say something else tomorrow"),
        ("-f nowhere", "which is not there"),
        ("idna==3.1 --hash=sha256:00", "pins by --hash"),
    ],
)
def test_what_does_not_stand_in_the_text_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(BadRequest) as caught:
        lines(tmp_path, text)
    assert says in caught.value.what and caught.value.next_step


def test_text_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_bytes(b"\xff\xfei\0d\0")
    with pytest.raises(BadRequest, match="no UTF-8"):
        read(tmp_path)


# what pip says when it fails


@pytest.mark.parametrize(
    ("tail", "says"),
    [
        (
            ["ERROR: Could not find a version that satisfies the requirement nosuch==9 (from versions: none)",
             "ERROR: No matching distribution found for nosuch==9"],
            "no package fits nosuch==9 (the package index has none of that name)",
        ),
        (
            ["ERROR: Could not find a version that satisfies the requirement a==9 (from b->-r /x/r.txt (line 1)) (from versions: 1.0, 1.1, 1.2, 1.3, 1.4, 2.0)",
             "ERROR: No matching distribution found for a==9"],
            "no package fits a==9 (there are 1.1, 1.2, 1.3, 1.4, 2.0)",
        ),
        (
            ["ERROR: Invalid requirement: 'numpy=1' (from line 1 of /x/requirements.txt)",
             "Hint: = is not a valid operator. Did you mean == ?"],
            "'numpy=1' is no requirement",
        ),
        (
            ["ERROR: Cannot install requests==2.20.0 and runpod==1.12.0 because these package versions have conflicting dependencies.",
             "", "The conflict is caused by:", "    The user requested requests==2.20.0",
             "    runpod 1.12.0 depends on requests>=2.34.2", "", "To fix this you could try to:",
             "ERROR: ResolutionImpossible: for help visit a page"],
            "its requirements contradict each other: The user requested requests==2.20.0; "
            "runpod 1.12.0 depends on requests>=2.34.2",
        ),
        (
            ["Collecting good", "Processing /w/badpkg-1.0.tar.gz (from -r r.txt (line 1))",
             "  error: subprocess-exited-with-error", "  ",
             "  × Getting requirements to build wheel did not run successfully.",
             "  │ exit code: 1", "  ╰─> [4 lines of output]", "      Traceback (most recent call last):",
             "      RuntimeError: no compiler", "      [end of output]", "",
             "error: subprocess-exited-with-error", "╰─> See above for output."],
            "badpkg-1.0.tar.gz could not be built (RuntimeError: no compiler)",
        ),
        (["Something", "ERROR: It is odd.", "[notice] A new release of pip"], "It is odd"),
        ([], "no output"),
    ],
)  # fmt: skip
def test_pips_last_words_become_a_cause(tail: list[str], says: str) -> None:
    assert cause(tail) == says


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    tail = [
        "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    ]
    found = failure(tail, Requirements((SDK,)), tmp_path, tmp_path / "log")
    assert isinstance(found, DiskError)
