"""Our client's end of the kernel's sockets: requests and their answers, and input that a cell asks for."""

from __future__ import annotations

import asyncio
import os

import zmq

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List

    from nbgpu_backend.pod.channels import Channel
    from nbgpu_backend.pod.intake import Intake
    from nbgpu_backend.pod.messages import Author, dump, read
    from nbgpu_backend.pod.runs import Run, Runs
    from nbgpu_backend.pod.spool import Spool, log
    from nbgpu_backend.pod.wire import Refusal

    Json = Dict[str, Any]
else:
    from channels import Channel
    from messages import Author, dump, read
    from spool import log
    from wire import Refusal

SHELL, IOPUB, STDIN, CONTROL, HEARTBEAT = 1, 2, 3, 4, 5
AGAIN_S = 0.5
DRAIN_S = 0.05  # without a message: what a dead kernel had said is read
PROMPT_S = 0.01  # the text before a prompt comes by another socket


class Client:
    """Connected to one kernel process after the other; `intake` gets what they publish."""

    def __init__(self, key: str, spool: Spool, runs: Runs, intake: Intake) -> None:
        self.spool, self.runs, self.intake = spool, runs, intake
        self.loop = asyncio.get_running_loop()
        self.author = Author(key)
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.channels: Dict[int, Channel] = {}
        self.waiting: Dict[str, asyncio.Future[Json]] = {}

    @property
    def connected(self) -> bool:
        return bool(self.channels)

    def connect(self) -> None:
        # shell and stdin share it: the kernel asks for input where it was asked to run
        identity = os.urandom(8).hex().encode()
        for number, kind, receive in (
            (SHELL, zmq.DEALER, self.answered),
            (IOPUB, zmq.SUB, self.intake.receive),
            (STDIN, zmq.DEALER, self.prompted),
            (CONTROL, zmq.DEALER, self.answered),
        ):
            socket = self.context.socket(kind)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RCVHWM, 0)
            socket.setsockopt(zmq.SNDHWM, 0)
            if kind == zmq.SUB:
                socket.setsockopt(zmq.SUBSCRIBE, b"")
            else:
                socket.setsockopt(zmq.IDENTITY, identity)
            socket.connect("ipc://k-%d" % number)
            self.channels[number] = Channel(socket, receive)

    async def ready(self) -> None:
        """Returns once the kernel answers and what it publishes arrives."""
        while True:
            name = self.author.name()
            self.intake.quiets[name] = quiet = asyncio.Event()
            try:
                await self.ask(SHELL, "kernel_info_request", {}, name)
                await asyncio.wait_for(quiet.wait(), AGAIN_S)
                return
            except asyncio.TimeoutError:
                pass  # it answered before its publisher knew of us
            finally:
                self.intake.quiets.pop(name, None)

    def send(self, channel: int, kind: str, content: Json, name: str = "") -> None:
        """A request whose answer nobody waits for."""
        if channel in self.channels:
            name = name or self.author.name()
            self.channels[channel].send(self.author.message(kind, content, name))

    async def ask(self, channel: int, kind: str, content: Json, name: str = "") -> Json:
        """A request and the content of its answer. Raises Refusal when the kernel ends meanwhile."""
        if channel not in self.channels:
            raise Refusal("kernel", "the kernel ended meanwhile")
        name = name or self.author.name()
        future: asyncio.Future[Json] = self.loop.create_future()
        self.waiting[name] = future
        try:
            self.channels[channel].send(self.author.message(kind, content, name))
            return await future
        finally:
            self.waiting.pop(name, None)

    def answered(self, batch: List[List[bytes]]) -> None:
        for frames in batch:
            try:
                _, parent, content = read(frames)
            except (ValueError, RecursionError) as error:
                log("an answer of the kernel was not understood: %r" % error)
                continue
            name = str(parent.get("msg_id", ""))
            future = self.waiting.get(name)
            if future is not None and not future.done():
                future.set_result(content)
            run = self.runs.open.get(name)
            if run is not None and run.by == "run":
                self.intake.replied(run, content)

    def prompted(self, batch: List[List[bytes]]) -> None:
        for frames in batch:
            try:
                header, parent, content = read(frames)
            except (ValueError, RecursionError) as error:
                log("a prompt of the kernel was not understood: %r" % error)
                continue
            run = self.runs.open.get(str(parent.get("msg_id", "")))
            if header.get("msg_type") == "input_request" and run is not None:
                self.loop.call_later(PROMPT_S, self.prompt, run, header, content)

    def prompt(self, run: Run, header: Json, content: Json) -> None:
        if run.ended:
            return
        run.asking = header
        prompt = {
            "prompt": str(content.get("prompt", "")),
            "password": bool(content.get("password", False)),
        }
        self.spool.add(run.id, "input_request", dump(prompt))

    def reply(self, run: Run, value: str) -> None:
        """Answer the input request of a run. Raises Refusal if none waits."""
        if run.asking is None or STDIN not in self.channels:
            raise Refusal("conflict", "%s does not wait for input" % run.id)
        parent, run.asking = run.asking, None
        name = self.author.name()
        self.channels[STDIN].send(
            self.author.message("input_reply", {"value": value, "status": "ok"}, name, parent)
        )

    async def drain(self) -> None:
        """Read what a kernel that is gone had said, and close."""
        iopub, quiet = self.channels.get(IOPUB), 0.0
        while iopub is not None and quiet < DRAIN_S:
            await asyncio.sleep(0.01)
            quiet = 0.0 if iopub.take() else quiet + 0.01
        for channel in self.channels.values():
            channel.close()
        self.channels.clear()

    def give_up(self) -> None:
        """No answer will come."""
        for future in list(self.waiting.values()):
            if not future.done():
                future.set_exception(Refusal("kernel", "the kernel ended meanwhile"))
