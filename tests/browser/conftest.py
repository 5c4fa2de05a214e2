"""Debian's Chromium at a real JupyterLab with a real backend."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.lab import AXE, BUILT, OUT, LabProcess, Visit

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


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Of this folder alone: while Playwright is there, its event loop counts as running, and asyncio
    tests cannot run."""
    if not CHROMIUM.exists():
        pytest.skip("there is no /usr/bin/chromium: install Debian's package chromium")
    if not (BUILT / "package.json").exists() or not AXE.exists():
        pytest.skip("the front end is not built: `make test-browser` builds it")
    shutil.rmtree(OUT, ignore_errors=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def lab(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabProcess]:
    """`browser` first: without one no Lab is started."""
    process = LabProcess(tmp_path_factory.mktemp("lab"))
    try:
        process.start()
        yield process
    finally:
        process.stop()


@pytest.fixture(scope="module")
def visit(browser: Browser, lab: LabProcess, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """Of the module; its network is kept under the module's `NETWORK`."""
    visit = Visit(browser, lab, request.module.NETWORK)
    visit.open()
    yield visit
    visit.close()
