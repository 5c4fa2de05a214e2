"""From a logged-in transport to a host.py that speaks frames: one exec session. Blocks.

The command line is one line that every login shell takes. What it runs says MARK, so that whatever
a login shell says before it is known for noise, and reads one line of Python (INSTALL) from its
stdin: that puts the code in place where it is missing, by its hash, and becomes host.py. Nothing is
sent before MARK: a login shell's files might read it.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nbgpu_backend.errors import BadRequest, DiskError
from nbgpu_backend.providers.ssh import host
from nbgpu_backend.providers.ssh.errors import HostUnreachable, NoPython
from nbgpu_backend.providers.ssh.settings import HostSettings

MARK = b"=nbgpu-loader-1="
OLDEST = (3, 8)
NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/)*[A-Za-z0-9_][A-Za-z0-9_.-]*")
# neither backslashes nor quotes nor exclamation marks: shells differ in these
COMMAND = (
    "%s -I -S -u -c 'import os,sys;"
    'os.write(1,b"=nbgpu-loader-1=%%d.%%d=" %% sys.version_info[:2]);'
    'exec(open(0,"rb",0,closefd=False).readline())\''
)
INSTALL = r"""
def install(digest):
    import json, os, shutil, sys
    def say(**value):
        os.write(1, json.dumps(value).encode() + b"\n")
    def read(count):
        data = b""
        while len(data) < count:
            more = os.read(0, min(1 << 16, count - len(data)))
            if not more:
                os._exit(0)
            data += more
        return data
    try:
        os.umask(0o077)
        root = os.path.expanduser("~/.nbgpu")
        place = os.path.join(root, "code", digest)
        have = os.path.isdir(place)
        if not have:
            os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
        say(have=have)
        if not have:
            fresh = "%s.%d" % (os.path.join(root, "code", "." + digest), os.getpid())
            sizes = json.loads(read(int(read(8), 16)).decode())
            shutil.rmtree(fresh, ignore_errors=True)
            os.mkdir(fresh)
            for name, size in sizes:
                os.makedirs(os.path.dirname(os.path.join(fresh, name)), exist_ok=True)
                with open(os.path.join(fresh, name), "wb") as file:
                    file.write(read(size))
            try:
                os.rename(fresh, place)
            except OSError:
                shutil.rmtree(fresh, ignore_errors=True)
                if not os.path.isdir(place):
                    raise
        os.chdir(os.path.expanduser("~"))
    except OSError as error:
        say(error="%s: %s" % (error.filename or "~/.nbgpu", error.strerror or error))
        os._exit(1)
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-u", os.path.join(place, "host.py")])
"""


class Code:
    """The files for a host, and the hash that names their folder there."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(sorted(files.items()))
        self.digest = hashlib.sha256(repr(list(self.files.items())).encode()).hexdigest()[:16]

    @classmethod
    def of(cls, settings: HostSettings) -> Code:
        """host.py and shim.py, and what the settings name besides. Raises BadRequest."""
        own = Path(host.__file__)
        paths = {"host.py": own, "shim.py": own.parents[2] / "shim.py"}
        paths |= {name: Path(path) for name, path in settings.code.items()}
        files = {}
        for name, path in paths.items():
            if not NAME.fullmatch(name):
                raise BadRequest(f"{name!r} is no name for a file of a host's code.")
            try:
                files[name] = path.read_bytes()
            except OSError as error:
                raise BadRequest(
                    f"{path} cannot be read ({error.strerror}), and hosts need it.",
                    "Install nbgpu again.",
                ) from None
        return cls(files)

    def packed(self) -> bytes:
        sizes = json.dumps([[name, len(data)] for name, data in self.files.items()]).encode()
        return b"%08x" % len(sizes) + sizes + b"".join(self.files.values())


class Session:
    """The channel of host.py, and what came after its mark. `tail` is the end of its stderr."""

    def __init__(self, channel: Any, log: Callable[[bytes], None]) -> None:
        self.channel = channel
        self.rest = b""
        self.tail = b""
        self._log = log
        self._stderr = threading.Thread(target=self._drain, daemon=True, name="host-stderr")

    def _drain(self) -> None:
        """stderr shares the window of the channel: unread it would stop everything."""
        with suppress(Exception):
            self.channel.settimeout(None)
            while data := self.channel.recv_stderr(4096):
                self.tail = (self.tail + data)[-4096:]
                self._log(data)

    def start(self, settings: HostSettings, code: Code) -> None:
        """Return when host.py runs. Raises NoPython, DiskError, HostUnreachable."""
        import paramiko

        end = time.monotonic() + settings.times.start_s
        where = settings.target.where
        try:
            self.channel.exec_command(COMMAND % settings.python)
            self._stderr.start()
            version = self._after(MARK, b"=", end, settings).decode("ascii", "replace")
            if tuple(int(x) for x in version.split(".")) < OLDEST:
                raise NoPython(
                    f"{settings.python} on {where} is Python {version}, and 3.8 or newer is needed.",
                    "Install a newer python3 there.",
                )
            line = f"exec({INSTALL!r});install({code.digest!r})\n"
            self.channel.sendall(line.encode())
            answer = json.loads(self._after(b"", b"\n", end, settings))
            if not answer.get("error") and not answer["have"]:
                self.channel.sendall(code.packed())
            if not answer.get("error"):
                # it becomes host.py, or says why the disk would not take it
                said = self._until((host.MARK, b"}\n"), end, settings)
                answer = {} if said.endswith(host.MARK) else json.loads(said)
            if answer.get("error"):
                raise DiskError(
                    f"Nothing can be written on {where}: {answer['error']}.",
                    "Free some space there, and see that the home of that user can be written.",
                )
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise HostUnreachable(
                f"{where} ran nothing for us: {str(error).rstrip('.') or 'the connection was closed'}.",
                "It is tried again.",
            ) from None
        self.channel.settimeout(None)

    def _after(self, mark: bytes, last: bytes, end: float, settings: HostSettings) -> bytes:
        """What stands between `mark` and the next `last`."""
        if mark:
            self._until((mark,), end, settings)
        return self._until((last,), end, settings)[: -len(last)]

    def _until(self, marks: tuple[bytes, ...], end: float, settings: HostSettings) -> bytes:
        """All up to the first of the marks, with it."""
        while True:
            at = [(self.rest.find(mark), mark) for mark in marks if mark in self.rest]
            if at:
                place, mark = min(at)
                found = self.rest[: place + len(mark)]
                self.rest = self.rest[place + len(mark) :]
                return found
            left = end - time.monotonic()
            if left <= 0:
                raise self._mute(settings, f"did not start within {settings.times.start_s:.0f} s")
            self.channel.settimeout(left)
            try:
                data = self.channel.recv(65536)
            except TimeoutError:
                continue
            if not data:
                raise self._ended(settings)
            self.rest = self.rest[-(1 << 20) :] + data

    def _ended(self, settings: HostSettings) -> NoPython | HostUnreachable:
        """The session ended before it was one of ours."""
        code = -1
        if self.channel.status_event.wait(2):
            code = self.channel.recv_exit_status()
        if code == -1:
            return HostUnreachable(
                f"The connection to {settings.target.where} broke while it started.",
                "It is tried again.",
            )
        self._stderr.join(1)
        return self._mute(settings, f"ended with code {code}")

    def _mute(self, settings: HostSettings, what: str) -> NoPython:
        said = (self.tail or self.rest).decode("utf-8", "replace").strip().splitlines()
        last = f" ({said[-1].strip().rstrip('.')[:200]})" if said else ""
        return NoPython(
            f"{settings.python} on {settings.target.where} {what}{last}.",
            "Install Python 3.8 or newer there, and see that "
            f"`ssh {settings.target.user}@{settings.target.address} python3 --version` answers.",
        )
