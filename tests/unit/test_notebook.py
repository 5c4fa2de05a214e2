"""Executed notebooks: one clean output, and failures that are seen."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

from tests.support.api import Api, request_row, until

v4: Any = nbformat.v4  # it carries no types


def execute(*sources: str, allow_errors: bool = False) -> list[Any]:
    """The outputs of each cell, after `%load_ext nbgpu`."""
    cells = [v4.new_code_cell(source) for source in ("%load_ext nbgpu", *sources)]
    notebook = v4.new_notebook(cells=cells)
    client = nbclient.NotebookClient(
        notebook, timeout=60, kernel_name="python3", allow_errors=allow_errors
    )
    client.execute(env=dict(os.environ))
    nbformat.validate(notebook)
    return [cell.outputs for cell in notebook.cells[1:]]


@pytest.fixture(autouse=True)
def _ipython(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))


def test_deploy_and_ask_leave_one_output_each(api: Api) -> None:
    api.waits = 30
    deploy, ask, listing = execute(
        "%gpu deploy short/M --name chat", "%%gpu ask chat -o said\nhello there", "%gpu ls"
    )
    kinds = [o.output_type for o in deploy]
    assert sorted(kinds) == ["display_data", "execute_result", "stream"]
    line = next(o for o in deploy if o.output_type == "display_data")
    assert "weights fetched in" in line.data["text/plain"]
    (only,) = ask
    assert only.output_type == "display_data"
    assert only.data["text/plain"].startswith(
        "hello there \n[answered in 22.0 s: 20.9 s cold start"
    )
    assert "<pre" in only.data["text/html"]
    assert [o.output_type for o in listing] == ["execute_result"]


def test_a_failure_is_one_error_and_fails_the_notebook(api: Api) -> None:
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="There is no endpoint chat"):
        execute("%gpu stop chat")
    outputs = execute("%gpu why chat", allow_errors=True)[0]
    (error,) = [o for o in outputs if o.output_type == "error"]
    assert error.ename == "NotFound" and error.traceback == [
        "NotFound: There is no endpoint chat. See them with: %gpu ls"
    ]


def test_a_typo_fails_the_notebook(api: Api) -> None:
    with pytest.raises(nbclient.exceptions.CellExecutionError):
        execute("%gpu frob")


def test_a_chart_is_one_picture(api: Api) -> None:
    api.requests = [request_row(n, cold=n == 0) for n in range(3)]
    outputs = execute("%gpu deploy Org/M --name chat -o ep", "%gpu chart chat latency")[1]
    (picture,) = outputs
    assert set(picture.data) == {"image/png", "text/plain"}


async def test_an_interrupted_cell_fails_with_one_line(api: Api) -> None:
    api.waits = 1000
    sources = ("%load_ext nbgpu", "%gpu deploy Org/M --name chat", "%%gpu ask chat\nhello")
    notebook = v4.new_notebook(cells=[v4.new_code_cell(source) for source in sources])
    client: Any = nbclient.NotebookClient(
        notebook, timeout=60, kernel_name="python3", allow_errors=True
    )

    async def interrupt() -> None:
        assert await asyncio.to_thread(until, api.asked.is_set)
        await client.km.interrupt_kernel()

    async with client.async_setup_kernel(env=dict(os.environ)):
        pressing = asyncio.create_task(interrupt())
        for number, cell in enumerate(notebook.cells):
            await client.async_execute_cell(cell, number)
        await pressing
    outputs = notebook.cells[-1].outputs
    (error,) = [o for o in outputs if o.output_type == "error"]
    assert error.ename == "Interrupted" and len(error.traceback) == 1
    assert "the request to chat is cancelled after" in error.traceback[0]
    assert await asyncio.to_thread(api.cancelled.wait, 10)
