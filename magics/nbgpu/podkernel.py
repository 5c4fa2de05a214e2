"""`%gpu kernel NAME`: JupyterLab is asked to give this notebook to the pod's kernel.

The front end's answer cannot be heard while the cell runs. So the cell shows how it is done by hand, and
the kernel's loop puts "it is switched" in its place when the answer comes.
"""

from __future__ import annotations

import asyncio
from typing import Any

from nbgpu import errors, live
from nbgpu.podrun import is_own, up
from nbgpu.results.pods import Said
from nbgpu.results.shape import html_line
from nbgpu.verbs.call import Call, Context, part

TARGET = "nbgpu.kernel"
ANSWER_S = 2.0


def switch(context: Context, name: str) -> object:
    """Raises Conflict where the pod does not run."""
    pod = up(context.client, name)
    if is_own(pod):
        return Said(f"This notebook is {pod.name}'s already.", kernelspec=pod.nbgpu.kernelspec)
    spec = pod.nbgpu.kernelspec
    if spec is None:
        # only while it runs is it in the picker; asking for the kernel is what makes it known
        path = f"/nbgpu/v1/pods/{part(pod.name)}/kernel"
        context.client.send(Call("POST", path, "Kernel", {"action": "start"}, about=pod.name))
        spec = context.client.pod(pod.name).data.nbgpu.kernelspec
    if spec is None:
        raise errors.Conflict(
            f"{pod.name} has no kernel for Jupyter.", f"See %gpu why {pod.name}",
            code="no_kernelspec", status_code=409,
        )  # fmt: skip
    home = context.client.home.root
    by_hand = (
        f"Pick “Python 3 · {pod.name}” in the kernel picker (at the notebook's top right), or in a "
        f"terminal: JUPYTER_PATH={home} jupyter console --kernel {spec}"
    )
    if context.face != "magic" or not live.in_notebook():
        return Said(f"{pod.name} has a kernel for a whole notebook. {by_hand}", kernelspec=spec)
    Asked(pod.name, spec, by_hand)
    return Shown()


class Shown:
    """It is in the cell already."""

    shown = True


class Asked:
    """One question to the front end, and the output that tells what came of it."""

    def __init__(self, pod: str, spec: str, by_hand: str) -> None:
        from comm import create_comm
        from IPython.display import display

        self.pod = pod
        self.by_hand = by_hand
        self.done = False
        asking = f"Asking JupyterLab to give this notebook to {pod}. If nothing happens: {by_hand}"
        self._output = display(_bundle(asking), raw=True, display_id=True)
        self._comm = create_comm(target_name=TARGET, data={"kernelspec": spec})
        self._comm.on_msg(self.answered)
        self._comm.on_close(self.closed)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # nothing will be heard: the sentence stands as it is
        loop.call_later(ANSWER_S, self.nobody)

    def answered(self, message: Any) -> None:
        """`{"ok": true}`, or `{"ok": false, "error": sentence}`."""
        data = message.get("content", {}).get("data", {})
        if error := data.get("error"):
            self._tell(f"{error} {self.by_hand}")
        else:
            self._tell(f"This notebook is {self.pod}'s: its cells run there from now on.")

    def closed(self, _: Any) -> None:
        self.nobody()

    def nobody(self) -> None:
        self._tell(f"No JupyterLab with nbgpu's panel has answered. {self.by_hand}")

    def _tell(self, text: str) -> None:
        if not self.done:
            self.done = True
            self._output.update(_bundle(text), raw=True)


def _bundle(text: str) -> dict[str, str]:
    return {"text/plain": text, "text/html": html_line(text)}
