"""Pods of a real backend, by its HTTP interface."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from nbgpu_backend import runtime

from tests.support.backend import BackendProcess
from tests.support.waiting import until

AS_USER = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
READY_S = 120.0  # the first one in a machine installs ipykernel


def sandboxed() -> bool:
    """Does bubblewrap work here?"""
    try:
        argv = ["bwrap", "--unshare-user", "--unshare-pid", "--ro-bind", "/", "/", "true"]
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


class PodBackend(BackendProcess):
    """`place` is where pods are opened that say nothing else."""

    place = "local"

    def open_pod(self, name: str = "train", *, wait: bool = True, **extras: Any) -> dict[str, Any]:
        """`extras` are ours; `limits` gets an idle stop of its own accord. Waits until it is ready."""
        extras.setdefault("place", {"on": self.place})
        body = {key: extras.pop(key) for key in ("env", "image", "gpu", "mounts") if key in extras}
        answer = self.http.post("/v2/pods", json={"name": name, **body, "nbgpu": extras})
        assert answer.status_code in (200, 201), answer.text
        return self.pod_ready(name) if wait else dict(answer.json())

    def pod(self, name: str = "train") -> dict[str, Any]:
        return self.get(f"/v2/pods/{name}")

    def state(self, name: str = "train") -> str:
        return str(self.pod(name)["nbgpu"]["state"])

    def pod_ready(self, name: str = "train") -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found = self.pod(name)
            state = found["nbgpu"]["state"]
            assert state != "failed", (found["nbgpu"]["reason"], found["nbgpu"]["tail"])
            return found if state in ("idle", "busy") else None

        try:
            return until(look, within=READY_S)
        except AssertionError as error:
            found = self.pod(name)["nbgpu"]
            said = {key: found[key] for key in ("state", "reason", "preparation", "tail")}
            last = "\n".join(self.log().splitlines()[-30:])
            raise AssertionError(f"{error}\n{json.dumps(said, indent=1)}\n{last}") from None

    def run(self, code: str, name: str = "train") -> list[dict[str, Any]]:
        """All that came of it, to its end."""
        run = self.start_run(code, name)
        return list(self.output(name, run=run["id"]))

    def start_run(self, code: str, name: str = "train") -> dict[str, Any]:
        answer = self.http.post(f"/nbgpu/v1/pods/{name}/runs", json={"code": code})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def output(
        self, name: str = "train", *, since: int = 0, run: str | None = None, follow: bool = True
    ) -> Iterator[dict[str, Any]]:
        params = {"since": since, "follow": follow, **({"run": run} if run else {})}
        path = f"/nbgpu/v1/pods/{name}/output"
        timeout = httpx.Timeout(60.0)
        with self.client() as http, http.stream("GET", path, params=params, timeout=timeout) as got:
            assert got.status_code == 200, got.read()
            for line in got.iter_lines():
                if line:
                    yield json.loads(line)

    def printed(self, code: str, name: str = "train") -> str:
        return text_of(self.run(code, name))

    def stop_pod(self, name: str = "train") -> dict[str, Any]:
        answer = self.http.post(f"/v2/pods/{name}/action", json={"action": "stop"})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def delete_pod(self, name: str = "train", *, keep_volume: bool = False) -> None:
        answer = self.http.delete(f"/v2/pods/{name}", params={"keepVolume": keep_volume})
        assert answer.status_code == 204, answer.text


def text_of(items: list[dict[str, Any]]) -> str:
    """What was printed."""
    return "".join(i["content"]["text"] for i in items if i["type"] == "stream")


def status_of(items: list[dict[str, Any]]) -> str:
    return str(items[-1]["content"]["status"])


def processes_with(text: str) -> list[int]:
    """Pids of those with `text` in their command line."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and int(path.name) != os.getpid():
            try:
                if text.encode() in (path / "cmdline").read_bytes():
                    found.append(int(path.name))
            except OSError:
                continue
    return found


def path_without(folder: Path, *names: str) -> str:
    """A PATH with all programs of this one's but these."""
    folder.mkdir()
    for place in reversed(os.environ["PATH"].split(os.pathsep)):
        for program in Path(place).iterdir() if Path(place).is_dir() else ():
            link = folder / program.name
            if program.name not in names:
                link.unlink(missing_ok=True)
                link.symlink_to(program)
    return str(folder)


class SpawnedBackend(PodBackend):
    """With `environment` as it is, behind a command that starts another one."""

    def __init__(self, home: Path, *before: str) -> None:
        super().__init__(home)
        self._before = before

    def start(self) -> runtime.Backend:
        self.home.root.mkdir(parents=True, exist_ok=True)
        with (self.home.root / "host.log").open("ab") as log:
            subprocess.Popen(
                [*self._before, sys.executable, "-m", "nbgpu_backend"],
                env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        self._client = None
        return until(lambda: runtime.locate(self.home))
