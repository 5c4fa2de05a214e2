"""A real JupyterLab of its own for a test, with the freshly built panel, and what a browser leaves behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, BrowserContext, Locator, Page, sync_playwright

from tests.support.backend import CLONE, BackendProcess
from tests.support.waiting import until

EXTENSION = CLONE / "extension"
BUILT = EXTENSION / "nbgpu_lab" / "labextension"
AXE = EXTENSION / "node_modules" / "axe-core" / "axe.min.js"
OUT = CLONE / "out" / "browser"
CHROMIUM = Path("/usr/bin/chromium")
# As root, without a screen, and without the browser's own calls to the network.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}


def lacking() -> str | None:
    """What has to be there first, as a sentence."""
    if not CHROMIUM.exists():
        return "there is no /usr/bin/chromium: install Debian's package chromium"
    if not (BUILT / "package.json").exists() or not AXE.exists():
        return "the front end is not built: `make front-end` builds it"
    return None


@contextmanager
def chromium() -> Iterator[Browser]:
    """While it is there, Playwright's event loop counts as running: no asyncio besides."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


class LabProcess:
    """`backend` is what the panel starts on demand, in a home of its own."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.root = folder / "notebooks"
        self.backend = BackendProcess(folder / "home")
        # so that Jupyter writes its root with ~, as it does for most people
        self.backend.environment.update({"HOME": str(folder), **(environment or {})})
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.root.mkdir(parents=True)
        extensions = self.folder / "labextensions"
        extensions.mkdir()
        (extensions / "nbgpu").symlink_to(BUILT)
        news = self.folder / "config/lab/user-settings/@jupyterlab/apputils-extension"
        news.mkdir(parents=True)
        (news / "notification.jupyterlab-settings").write_text(
            '{"fetchNews": "false", "checkForUpdates": false}'
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/"
        settings = {
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.port": port,
            "ServerApp.port_retries": 0,
            "ServerApp.root_dir": self.root,
            "ServerApp.open_browser": False,
            "ServerApp.allow_root": True,
            "ServerApp.jpserver_extensions": "{'nbgpu_lab': True}",
            "IdentityProvider.token": "",
            "LabApp.extra_labextensions_path": extensions,
            "LabApp.expose_app_in_browser": True,
        }
        own = {
            "JUPYTER_CONFIG_DIR": str(self.folder / "config"),
            "JUPYTER_RUNTIME_DIR": str(self.folder / "runtime"),
            "JUPYTER_DATA_DIR": str(self.folder / "data"),
        }
        with open(self.folder / "log", "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", *(f"--{k}={v}" for k, v in settings.items())],
                env={**self.backend.environment, **own},
                stdout=log,
                stderr=log,
            )
        until(self._answers, within=60, every=0.1)

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, self.log()
        try:
            return httpx.get(self.url + "api/status", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
        if os.access(self.backend.home.backend_json, os.R_OK):
            self.backend.shutdown(everything=True)


class Visit:
    """A browser at a Lab, and a person's hands in it. `requests` are the addresses under our routes."""

    def __init__(self, browser: Browser, lab: LabProcess, name: str) -> None:
        OUT.mkdir(parents=True, exist_ok=True)
        self.lab = lab
        self._har = OUT / f"{name}.har"
        self.context: BrowserContext = browser.new_context(
            viewport={"width": 1280, "height": 860},
            record_har_path=self._har,
            record_har_content="embed",
        )
        self.page: Page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.clicks = 0
        self.tokens: set[str] = set()
        self._closed = False
        self.page.on("request", self._saw)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _saw(self, request: Any) -> None:
        if "/nbgpu/" in request.url and "/lab/extensions/" not in request.url:
            self.requests.append(f"{request.method} {request.url}")

    def open(self) -> None:
        self.page.goto(self.lab.url + "lab?reset")
        self.page.wait_for_selector("#jp-main-dock-panel .jp-Launcher", timeout=60_000)
        self.page.wait_for_selector("#jupyterlab-splash", state="detached", timeout=60_000)

    @property
    def panel(self) -> Locator:
        return self.page.locator("#nbgpu-panel")

    def row(self, name: str) -> Locator:
        return self.panel.locator(f'[data-endpoint="{name}"]')

    def click(self, target: Locator) -> None:
        self.clicks += 1
        target.click()

    def command(self, command: str, arguments: dict[str, Any] | None = None) -> None:
        self.page.evaluate(
            "async ([c, a]) => { await window.jupyterapp.commands.execute(c, a); }",
            [command, arguments or {}],
        )

    def show_panel(self) -> None:
        if not self.panel.is_visible():
            self.page.locator('.jp-SideBar .lm-TabBar-tab[data-id="nbgpu-panel"]').click()
        self.panel.wait_for(state="visible")

    def width(self, px: int) -> None:
        """Of the side panel: its handle is dragged there."""
        edge = self.page.locator("#jp-left-stack").bounding_box()
        assert edge is not None
        at = (edge["x"] + edge["width"] + 1, 400)
        self.page.mouse.move(*at)
        self.page.mouse.down()
        self.page.mouse.move(edge["x"] + px, 400, steps=4)
        self.page.mouse.up()

    def notebook(self) -> None:
        """A new one, with a kernel that is ready."""
        self.command("notebook:create-new", {"kernelName": "python3"})
        self.page.wait_for_selector(
            ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell", timeout=30_000
        )
        self.page.wait_for_function(
            "() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
            timeout=60_000,
        )

    def sources(self) -> list[str]:
        """Of the current notebook's cells."""
        found: list[str] = self.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.content.widgets"
            ".map(cell => cell.model.sharedModel.getSource())"
        )
        return found

    def outputs(self) -> list[Any]:
        """Of all cells: text, HTML or the error of each output."""
        found: list[Any] = self.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.content.widgets.flatMap("
            "cell => cell.model.toJSON().outputs ?? [])"
        )
        return found

    def mistakes(self) -> list[Any]:
        """Errors among the outputs, and typos, which a notebook shows without one."""
        return [
            out
            for out in self.outputs()
            if out["output_type"] == "error" or "UsageError" in str(out.get("text"))
        ]

    def write(self, source: str) -> None:
        """Into the current cell."""
        self.page.evaluate(
            "source => window.jupyterapp.shell.currentWidget.content.activeCell.model"
            ".sharedModel.setSource(source)",
            source,
        )

    def run_selected(self) -> None:
        """As Shift+Enter does; returns when it has run."""
        self.command("notebook:run-cell-and-select-next")

    def start_selected(self) -> None:
        """The same, and returns at once."""
        self.page.evaluate(
            "() => { void window.jupyterapp.commands.execute('notebook:run-cell-and-select-next'); }"
        )

    def saved(self) -> Path:
        """The current notebook's file, as it stands now."""
        path: str = self.page.evaluate(
            "async () => { const { context } = window.jupyterapp.shell.currentWidget;"
            " await context.save(); return context.path; }"
        )
        return self.lab.root / path

    def settle(self, quiet_s: float = 3.0, within_s: float = 30.0) -> None:
        """Until what happened has been read: no request for `quiet_s`."""
        end = time.monotonic() + within_s
        seen, since = len(self.requests), time.monotonic()
        while time.monotonic() - since < quiet_s:
            assert time.monotonic() < end, self.requests[-5:]
            self.page.wait_for_timeout(100)
            if len(self.requests) != seen:
                seen, since = len(self.requests), time.monotonic()

    def changes_ms(self, name: str, count: int) -> list[float]:
        """How long changes of an endpoint in view took, from the request to the text in the document.

        Both ends are measured from here. Playwright's TimeoutError: one was not shown at all.
        """
        took = []
        for number in range(count):
            action, state = (("stop", "stopped"), ("start", "asleep"))[number % 2]
            self.page.wait_for_timeout(300)  # changes that stand alone
            began = time.perf_counter()
            self.lab.backend.http.post(f"/v2/serverless/{name}/action", json={"action": action})
            self.page.wait_for_function(
                "([name, state]) => document.querySelector("
                "`[data-endpoint=${name}] .nbgpu-Row-reason b`)?.textContent === state",
                arg=[name, state],
            )
            took.append((time.perf_counter() - began) * 1000)
        return took

    def shoot(self, name: str) -> None:
        """In both themes."""
        for look, theme in THEMES.items():
            self.command("apputils:change-theme", {"theme": theme})
            self.page.wait_for_function(
                "light => document.body.dataset.jpThemeLight === light",
                arg=str(look == "light").lower(),
            )
            self.page.mouse.move(1200, 10)
            # Lab covers itself while it changes, and uncovers slowly
            self.page.wait_for_selector("#jupyterlab-splash", state="detached")
            self.page.wait_for_timeout(150)
            self.page.screenshot(path=OUT / f"{name}-{look}.png")
        self.command("apputils:change-theme", {"theme": THEMES["light"]})

    def violations(self) -> list[str]:
        """What axe-core calls serious or critical in the panel."""
        self.page.evaluate(AXE.read_text())
        found = self.page.evaluate("async () => (await axe.run('#nbgpu-panel')).violations")
        return [
            f"{one['id']}: {node['html'][:160]} {node['any'][:1]}"
            for one in found
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]

    def leaks(self) -> list[str]:
        """End the visit; the files that hold a token of the backend."""
        self.tokens.add(self.lab.backend.backend.token)
        self.close()
        files = [path for path in OUT.iterdir() if path.is_file()]
        return [
            path.name
            for path in files
            if any(token.encode() in path.read_bytes() for token in self.tokens)
        ]

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        storage: dict[str, Any] = dict(self.context.storage_state())
        storage["session"] = self.page.evaluate("() => ({...sessionStorage})")
        (OUT / self._har.name.replace("network", "storage")).with_suffix(".json").write_text(
            json.dumps(storage, indent=1)
        )
        self.context.close()
        _trim(self._har)


def _trim(har: Path) -> None:
    """Leave the bodies of Lab's own scripts out: they are large and the same for all."""
    found = json.loads(har.read_text())
    for entry in found["log"]["entries"]:
        if "/static/" in entry["request"]["url"] or "/lab/extensions/" in entry["request"]["url"]:
            entry["response"]["content"].pop("text", None)
    har.write_text(json.dumps(found))
