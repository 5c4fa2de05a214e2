"""A terminal in a pod, on this terminal."""

from __future__ import annotations

import codecs
import json
import os
import select
import shutil
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from nbgpu import errors
from nbgpu.podrun import up
from nbgpu.results.pods import Said
from nbgpu.verbs.call import Context, part

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE = 65_536


def ssh(context: Context, name: str) -> Said:
    """Until the shell there ends. Raises ServiceError where the pod does not run."""
    if context.face != "cli":
        return Said(
            f"A terminal of {name}: in the panel, the pod's Terminal; in a terminal of this machine: "
            f"nbgpu ssh {name}",
            command=f"nbgpu ssh {name}",
        )
    pod = up(context.client, name)
    try:
        import termios
        import tty
    except ImportError:
        raise errors.Missing("This system has no terminal that could be passed on.") from None

    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    backend = context.client.backend
    size = shutil.get_terminal_size()
    url = (
        f"{backend.url.replace('http', 'ws', 1)}/nbgpu/v1/pods/{part(pod.name)}/terminal"
        f"?rows={size.lines}&cols={size.columns}"
    )
    head = {"Authorization": f"Bearer {backend.token}"}
    try:
        socket = connect(url, additional_headers=head, proxy=None, max_size=None, compression=None)
    except (OSError, InvalidStatus) as error:
        raise errors.BackendDown(
            f"No terminal of {name} could be opened: {error}.", f"See %gpu why {name}"
        ) from None
    raw = sys.stdin.isatty()
    before = termios.tcgetattr(sys.stdin) if raw else None
    try:
        with socket:
            if raw:
                tty.setraw(sys.stdin)
            pass_on(socket, sys.stdin.fileno(), sys.stdout.fileno())
    finally:
        if before is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
    return Said(f"The terminal of {name} is closed.", closed=name)


def pass_on(socket: Any, source: int, sink: int) -> None:
    """Bytes both ways, and the size of the window as it changes, until the socket is closed."""
    from websockets.exceptions import ConnectionClosed

    reader, writer = os.pipe()  # wakes the thread that reads the keyboard

    def keys() -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while True:
            ready, _, _ = select.select([source, reader], [], [])
            if reader in ready:
                return
            typed = os.read(source, PIECE)
            try:
                socket.send(json.dumps({"in": decoder.decode(typed) if typed else "\x04"}))
            except ConnectionClosed:
                return
            if not typed:
                return

    def resized(*_: object) -> None:
        size = shutil.get_terminal_size()
        try:
            socket.send(json.dumps({"size": [size.lines, size.columns]}))
        except ConnectionClosed:
            return

    old = _on_resize(resized)
    thread = threading.Thread(target=keys, daemon=True)
    thread.start()
    try:
        for piece in socket:
            data = piece.encode() if isinstance(piece, str) else piece
            while data:
                data = data[os.write(sink, data) :]
    except ConnectionClosed:
        return
    finally:
        _on_resize(old)
        os.write(writer, b"x")
        thread.join(1)
        os.close(reader)
        os.close(writer)


def _on_resize(handler: Callable[..., object] | Any) -> Any:
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGWINCH"):
        return None
    return signal.signal(signal.SIGWINCH, handler if handler is not None else signal.SIG_DFL)
