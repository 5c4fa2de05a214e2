"""The live line in a real kernel: with a front end that could draw a widget, without one, and with nobody there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import nbformat
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

WIDGET = "application/vnd.jupyter.widget-view+json"
WAITING = """
import sys, time
from nbgpu.live import line

waiting = line()
for percent in range(0, 100, 20):
    waiting.update(f"chat: fetching <b> ({percent}%)", percent / 100)
    time.sleep(0.3)
waiting.end("chat: fetched")
"""
WITHOUT = "import sys; sys.modules['ipywidgets'] = None"  # as where it is not installed


@pytest.fixture
def kernel() -> Iterator[BlockingKernelClient]:
    manager, client = start_new_kernel(kernel_name="python3")
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def run(client: BlockingKernelClient, code: str, *, asked: bool) -> list[dict[str, Any]]:
    """What the kernel says meanwhile. `asked`: whether the front end takes questions, as one with a person does."""
    heard: list[dict[str, Any]] = []
    reply = client.execute_interactive(
        code, allow_stdin=asked, output_hook=heard.append, stdin_hook=heard.append, timeout=60
    )
    assert reply["content"]["status"] == "ok", reply["content"]
    return heard


def of(heard: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [one["content"] for one in heard if one["msg_type"] in kinds]


def shown(heard: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one["data"] for one in of(heard, "display_data", "update_display_data")]


def test_a_front_end_gets_a_widget_with_the_html_for_where_none_is_drawn(
    kernel: BlockingKernelClient,
) -> None:
    heard = run(kernel, WAITING, asked=True)
    *waiting, last = shown(heard)
    assert all({WIDGET, "text/html", "text/plain"} == set(one) for one in waiting)
    assert 1 < len(waiting) < 5  # the widget moves in between, and the HTML does not grow old
    assert "&lt;b&gt; (0%)" in waiting[0]["text/html"] and "<progress" in waiting[-1]["text/html"]
    assert last == {"text/plain": "chat: fetched", "text/html": last["text/html"]}
    moved = [one["data"]["state"] for one in of(heard, "comm_msg") if "state" in one["data"]]
    assert [one["value"] for one in moved if isinstance(one.get("value"), float)][-1] == 0.8
    assert all("<b>" not in one["value"] for one in moved if isinstance(one.get("value"), str))


def test_no_widget_and_no_part_of_one_outlives_its_line(kernel: BlockingKernelClient) -> None:
    heard = run(kernel, WAITING, asked=True)
    opened = {one["comm_id"] for one in of(heard, "comm_open")}
    assert opened and opened == {one["comm_id"] for one in of(heard, "comm_close")}
    kinds = [one["msg_type"] for one in heard]
    last_shown = max(n for n, kind in enumerate(kinds) if kind == "update_display_data")
    assert last_shown < kinds.index("comm_close")  # first the HTML, then nothing behind it


def test_without_ipywidgets_it_is_html(kernel: BlockingKernelClient) -> None:
    run(kernel, WITHOUT, asked=True)
    heard = run(kernel, WAITING, asked=True)
    assert not of(heard, "comm_open")
    assert len(shown(heard)) == 6
    assert all(set(one) == {"text/html", "text/plain"} for one in shown(heard))


def test_where_nobody_could_answer_nothing_is_even_imported(kernel: BlockingKernelClient) -> None:
    heard = run(kernel, WAITING + "\nprint('ipywidgets' in sys.modules)", asked=False)
    assert not of(heard, "comm_open")
    assert all(set(one) == {"text/html", "text/plain"} for one in shown(heard))
    assert [one["text"] for one in of(heard, "stream")] == ["False\n"]


def test_an_executed_notebook_holds_the_last_line_and_no_widget() -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(WAITING)])
    NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    (output,) = notebook.cells[0].outputs
    assert output.data["text/plain"] == "chat: fetched"
    assert "widget" not in nbformat.writes(notebook)
