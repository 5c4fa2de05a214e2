"""Files of the front end that are made from others, and what the lock must not hold."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.backend import CLONE

EXTENSION = CLONE / "extension"


def test_the_panels_types_are_those_of_the_schema() -> None:
    done = subprocess.run(
        [sys.executable, EXTENSION / "scripts" / "schema.py", "--check"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_panels_verbs_are_those_of_the_magics() -> None:
    ours = (EXTENSION / "src" / "verbs" / "verbs.json").read_text()
    assert ours == (CLONE / "magics" / "nbgpu" / "verbs.json").read_text()


def test_the_lock_names_no_registry() -> None:
    lock = json.loads((EXTENSION / "package-lock.json").read_text())
    assert [name for name, entry in lock["packages"].items() if "resolved" in entry] == []
