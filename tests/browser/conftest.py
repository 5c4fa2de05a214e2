"""Debian's Chromium at a real JupyterLab with a real backend."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser.lab import OUT, LabProcess, Visit, chromium, lacking


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Of this folder alone: asyncio tests cannot run meanwhile."""
    if (reason := lacking()) is not None:
        pytest.skip(reason)
    shutil.rmtree(OUT, ignore_errors=True)
    with chromium() as browser:
        yield browser


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
