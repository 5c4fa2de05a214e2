"""`%%gpu run` in a real kernel, as a notebook sees it: its messages, its questions, its interrupts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel

from tests.support.api import Api


class Notebook:
    """`cell(code)` gives the outputs of a cell, updates and clears carried out, as a front end keeps them."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.answers: list[str] = []
        self.comms: list[dict[str, Any]] = []

    def cell(self, code: str, *, allow_stdin: bool = False) -> list[dict[str, Any]]:
        outputs: list[dict[str, Any]] = []

        def hear(message: dict[str, Any]) -> None:
            kind, content = message["msg_type"], message["content"]
            if kind == "stream" and outputs and outputs[-1].get("name") == content["name"]:
                outputs[-1]["text"] += content["text"]
            elif kind in ("stream", "display_data", "execute_result", "error"):
                outputs.append({"type": kind, **content})
            elif kind == "update_display_data":
                wanted = content["transient"]["display_id"]
                for output in outputs:
                    if output.get("transient", {}).get("display_id") == wanted:
                        output["data"] = content["data"]
            elif kind == "clear_output":
                outputs.clear()
            elif kind == "comm_open":
                self.comms.append(content)

        def answer(message: dict[str, Any]) -> None:
            self.client.input(self.answers.pop(0))

        self.client.execute_interactive(
            code, timeout=60, allow_stdin=allow_stdin, output_hook=hear, stdin_hook=answer
        )
        return outputs


@pytest.fixture
def notebook(api: Api, tmp_path: Path) -> Iterator[Notebook]:
    manager, client = start_new_kernel(
        env={
            **os.environ,
            "JPY_SESSION_NAME": "day/one.ipynb",
            "IPYTHONDIR": str(tmp_path / "ipython"),
        }
    )
    found = Notebook(client)
    found.cell("%load_ext nbgpu\n%gpu open train --cpu 1")
    yield found
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def test_output_is_as_from_the_own_kernel(notebook: Notebook, api: Api) -> None:
    assert api.pods.pods["train"].n.origin.notebook == "day/one.ipynb"
    outputs = notebook.cell(
        "%%gpu run train\nimport sys\nfrom IPython.display import HTML, display\nprint('one')\n"
        "h = display(HTML('<b>1</b>'), display_id=True)\nprint('two', file=sys.stderr)\n"
        "h.update(HTML('<b>2</b>'))\n{'x': 3}"
    )
    kinds = [(o["type"], o.get("name")) for o in outputs]
    assert kinds[:3] == [("stream", "stdout"), ("display_data", None), ("stream", "stderr")]
    assert outputs[0]["text"] == "one\n" and outputs[1]["data"]["text/html"] == "<b>2</b>"
    assert outputs[3]["data"]["text/plain"] == "{'x': 3}"
    badge = outputs[4]["data"]
    assert badge["text/plain"].startswith("[train · local · ") and "opacity" in badge["text/html"]
    assert len(outputs) == 5


def test_a_failed_run_is_a_traceback_and_one_line(notebook: Notebook) -> None:
    outputs = notebook.cell("%%gpu run train\n1 / 0")
    assert outputs[0]["name"] == "stderr" and "ZeroDivisionError" in outputs[0]["text"]
    assert outputs[-1]["ename"] == "RunFailed"
    assert outputs[-1]["traceback"] == ["RunFailed: in train: ZeroDivisionError: division by zero"]


def test_questions_are_asked_in_the_notebook(notebook: Notebook, api: Api) -> None:
    notebook.answers = ["Ada", "secret"]
    outputs = notebook.cell(
        "%%gpu run train\nimport getpass\nprint(input('who? '), len(getpass.getpass('key: ')))",
        allow_stdin=True,
    )
    assert outputs[0]["text"] == "Ada 6\n"
    outputs = notebook.cell("%%gpu run train\ninput('who? ')")
    assert "nobody can be asked here" in outputs[-1]["traceback"][0]
    outputs = notebook.cell("%gpu delete train")
    assert "Add --yes" in str(outputs) and "train" in api.pods.pods
    notebook.answers = ["y"]
    notebook.cell("%gpu delete train", allow_stdin=True)
    assert "train" not in api.pods.pods


def test_a_pods_own_kernel_does_not_wait_for_itself(notebook: Notebook) -> None:
    notebook.cell("import os; os.environ['NBGPU_POD'] = 'train'")
    for cell in ("%%gpu run train\n1", "%gpu attach train"):
        notebook.cell("%%gpu run train --background\n1")
        outputs = notebook.cell(cell)
        assert "This is the kernel of train" in str(outputs)
    assert "is train's already" in str(notebook.cell("%gpu kernel train"))


def test_the_front_end_is_asked_for_the_pods_kernel(notebook: Notebook) -> None:
    outputs = notebook.cell("%gpu kernel train")
    (comm,) = notebook.comms
    assert comm["target_name"] == "nbgpu.kernel" and comm["data"] == {"kernelspec": "nbgpu-train"}
    said = outputs[0]["data"]["text/plain"]
    assert "jupyter console --kernel nbgpu-train" in said and "Python 3 · train" in said
    # nobody answers: the output says so, once the kernel's loop has waited
    display_id = outputs[0]["transient"]["display_id"]
    while True:
        message = notebook.client.get_iopub_msg(timeout=10)
        if message["msg_type"] == "update_display_data":
            assert message["content"]["transient"]["display_id"] == display_id
            text = message["content"]["data"]["text/plain"]
            assert text.startswith("No JupyterLab with nbgpu's panel has answered.")
            break
    outputs = notebook.cell("%gpu kernel train")
    comm = notebook.comms[-1]
    message = notebook.client.session.msg(
        "comm_msg", {"comm_id": comm["comm_id"], "data": {"ok": True}}
    )
    notebook.client.shell_channel.send(message)
    while True:
        message = notebook.client.get_iopub_msg(timeout=10)
        if message["msg_type"] == "update_display_data":
            said = message["content"]["data"]["text/plain"]
            assert said == "This notebook is train's: its cells run there from now on."
            break
