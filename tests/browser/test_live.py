"""The live line of a notebook: a widget while it moves, HTML for good."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from nbgpu_backend.engines.vllm.environment import Environment
from playwright.sync_api import Browser, Locator, expect

from tests.browser.lab import LabProcess, Visit
from tests.support.backend import command_engine
from tests.support.hub import Hub

NETWORK = "network-live"
SLOW = 1_000_000  # bytes a second
FILES = {"config.json": b"{}", "model.safetensors": os.urandom(6_000_000)}


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub(rate=SLOW) as hub:
        for name in ("shown", "interrupted", "deleted"):
            hub.add(f"lab/{name}", {**FILES, "README.md": name.encode()})
        yield hub


@pytest.fixture(scope="module")
def lab(
    browser: Browser, engine: Environment, hub: Hub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LabProcess]:
    """The engine is only looked for, never started."""
    folder = tmp_path_factory.mktemp("lab")
    process = LabProcess(folder, {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "hf")})
    try:
        process.start()
        yield process
    finally:
        process.stop()


@pytest.fixture(scope="module")
def notebook(visit: Visit) -> Visit:
    visit.notebook()
    visit.write("%load_ext nbgpu")
    visit.run_selected()
    return visit


def outputs(visit: Visit) -> Locator:
    """All of the current notebook."""
    return visit.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook")


def widgets(visit: Visit) -> Locator:
    return outputs(visit).locator(".jupyter-widgets")


def deploying(visit: Visit, name: str) -> Locator:
    """Start a deploy, and return its bar once it has one."""
    visit.write(f"%gpu deploy lab/{name} --name {name}")
    visit.start_selected()
    bar = widgets(visit).locator(".progress-bar")
    expect(bar).to_be_visible(timeout=30_000)
    return bar


def test_a_deploy_shows_a_widget_while_it_fetches_and_html_afterwards(notebook: Visit) -> None:
    bar = deploying(notebook, "shown")
    expect(outputs(notebook)).to_contain_text("fetching lab/shown")
    # and it stays one, though its output is shown again now and then
    expect(bar).to_have_attribute("style", re.compile(r"width: (7|8|9)\d"), timeout=30_000)
    notebook.shoot("live-line")
    expect(outputs(notebook)).to_contain_text("weights fetched in", timeout=30_000)
    expect(widgets(notebook)).to_have_count(0)
    assert notebook.mistakes() == []


def test_a_question_waits_with_a_widget_and_is_answered_as_html(notebook: Visit) -> None:
    notebook.lab.backend.deploy("slow", nbgpu={"engine": command_engine("--startup-s", "4")})
    notebook.write("%%gpu ask slow\nHello?")
    notebook.start_selected()
    expect(widgets(notebook).first).to_contain_text("starting", timeout=30_000)
    expect(outputs(notebook)).to_contain_text("cold start", timeout=30_000)
    expect(widgets(notebook)).to_have_count(0)
    assert notebook.mistakes() == []


def test_an_interrupted_deploy_leaves_no_widget(notebook: Visit) -> None:
    deploying(notebook, "interrupted")
    notebook.command("notebook:interrupt-kernel")
    expect(outputs(notebook)).to_contain_text("is deleted again", timeout=30_000)
    expect(widgets(notebook)).to_have_count(0)


def test_a_deploy_whose_endpoint_goes_away_leaves_no_widget(notebook: Visit) -> None:
    deploying(notebook, "deleted")
    notebook.lab.backend.http.delete("/v2/serverless/deleted").raise_for_status()
    expect(outputs(notebook)).to_contain_text("deleted: no longer waited for", timeout=30_000)
    expect(widgets(notebook)).to_have_count(0)


def test_the_saved_notebook_and_its_export_need_no_widget(notebook: Visit) -> None:
    saved = notebook.saved()
    text = saved.read_text()
    assert "weights fetched in" in text and "widget" not in text
    subprocess.run(
        [sys.executable, "-m", "nbconvert", "--to", "html", "--log-level", "ERROR", str(saved)],
        check=True,
    )
    page = saved.with_suffix(".html").read_text()
    assert re.search(r"<div style=[^>]*>shown: weights fetched in [^<]+ \(6.0 MB\)</div>", page)
    assert "vnd.jupyter.widget" not in page


def test_nothing_went_wrong_in_the_page(notebook: Visit) -> None:
    assert notebook.complaints == []
    assert notebook.leaks() == []
