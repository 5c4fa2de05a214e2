"""A change in the backend, until it shows in the panel: JupyterLab in Chromium, with a backend of its own."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

from playwright.sync_api import Browser, TimeoutError, expect

from tests.bench import report, stand
from tests.bench.report import Report
from tests.browser import lab

CHANGES = 20
ENDPOINTS = 20
LIMIT_MS = 100.0  # of the median


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--changes", type=int, default=CHANGES, help="changes that are looked for")
    parser.add_argument("--endpoints", type=int, default=ENDPOINTS, help="endpoints in the panel")


def run(given: argparse.Namespace) -> Report:
    found = Report("panel: a change in the backend shows in the panel")
    if (reason := lab.lacking()) is not None:
        found.notes.append(f"skipped: {reason}")
        return found
    with lab.chromium() as browser, tempfile.TemporaryDirectory(prefix="nbgpu-bench-") as folder:
        process = lab.LabProcess(Path(folder))
        try:
            process.start()
            look(found, browser, process, given)
        finally:
            process.stop()
    found.notes.append(
        f"{given.changes} changes, {given.endpoints} endpoints, from the request to the text in the "
        f"document; {stand.machine()}"
    )
    return found


def look(
    found: Report, browser: Browser, process: lab.LabProcess, given: argparse.Namespace
) -> None:
    visit = lab.Visit(browser, process, "network-bench")
    visit.open()
    visit.show_panel()
    expect(visit.panel.get_by_text("No endpoints yet.")).to_be_visible(timeout=30_000)
    names = [f"endpoint-{number:03}" for number in range(given.endpoints)]
    for name in names:
        process.backend.deploy(name)
    visit.panel.get_by_label("Search endpoints").fill(names[0])
    expect(visit.row(names[0])).to_be_visible()
    try:
        took = visit.changes_ms(names[0], given.changes)
    except TimeoutError:
        found.wrong.append("a change of the backend never showed in the panel")
    else:
        found.add("from the request to the text, median", median(took), "ms", LIMIT_MS)
        found.add("the same, p95", report.percentile(took, 95), "ms")
        found.add("the same, slowest", max(took), "ms")
    found.check(not visit.complaints, f"errors in the page: {visit.complaints}")
    found.check(not visit.leaks(), "a file of the browser holds the backend's token")


if __name__ == "__main__":
    report.main(run, arguments, __doc__)
