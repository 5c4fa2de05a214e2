"""A Jupyter kernel that lives in a pod.

Jupyter's kernel manager asks a provisioner to launch a process, and what it gets here is the one kernel of a
pod, which the backend starts, or finds running. The connection goes over unix sockets. Their folder is
reached through a descriptor of this process (/proc/PID/fd/N/k): its own path may be too long for a socket.

Four things that Jupyter does are held off:

- After an end it unlinks the sockets of a kernel whose transport is ipc. By then another notebook's kernel
  may listen there. So the descriptor leads to nowhere from the kernel's end to its next start, and its
  number, which connected clients know, stays the same.
- It asks a kernel that is dead to end, and would ask the next one, which listens at the same place.
- A kernel that died is restarted again and again. Where the pod has ended that cannot work: the restarter
  is stopped, and the notebook is told that the kernel is dead, with the reason.
- A backend that is away for a while is no death of the kernel, which goes on without it.

Nothing here starts a backend.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jupyter_client.provisioning import KernelProvisionerBase
from nbgpu_backend import runtime
from traitlets import Unicode

from nbgpu.formats import sentence

START_S = 90.0  # the backend gives a kernel 60 s to answer
ASK_S = 10.0
WAIT_S = 0.1
LIVES = ("starting", "idle", "busy")
OVER = ("stopped", "failed", "stopping", "preparing")


class PodError(RuntimeError):
    """A sentence with the next step: Jupyter shows it where a kernel does not start."""


class Refused(PodError):
    """The backend answered, and refused."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class Away(PodError):
    """No backend answered."""


class PodProvisioner(KernelProvisionerBase):
    """`pod` is its name or id, `home` the installation (NBGPU_HOME) whose backend knows it."""

    pod = Unicode("", config=True, help="the pod's name")
    home = Unicode("", config=True, help="NBGPU_HOME; empty: this process's")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.connection_info: Any = {}
        self._generation = 0  # of the kernel that was launched; 0: none
        self._instance: str | None = None  # of the pod that it was launched in
        self._folder = -1  # the descriptor that `ip` goes through
        self._ending = False
        self._over = False

    # what Jupyter asks

    @property
    def has_process(self) -> bool:
        return self._generation > 0

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        kwargs.pop("extra_arguments", None)
        return dict(await super().pre_launch(cmd=[], **kwargs))

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Start the pod's kernel, or find it running. Raises PodError with a sentence."""
        self._drop_control()  # what it still has to say was meant for the one before
        try:
            kernel = await self._act("start", timeout_s=START_S)
        except PodError as error:
            if self.connection_info:  # it has run before: a notebook is looking at it
                self._tell(str(error))
            raise
        connection = kernel.get("connection")
        if not connection:
            raise PodError(
                f"The kernel of {self.pod} did not say where it is. See nbgpu why {self.pod}"
            )
        self._ending = self._over = False
        if getattr(self.parent, "reason", None):
            self.parent.reason = None
        self._generation = max(1, int(kernel.get("generation") or 1))
        self._instance = kernel.get("instance")
        found = {
            "transport": "ipc", "ip": self._lead_to(Path(connection["ip"])),
            "key": str(connection["key"]).encode(),
            "signature_scheme": connection.get("signatureScheme", "hmac-sha256"),
            **{f"{name}_port": int(connection[f"{name}Port"])
               for name in ("shell", "iopub", "stdin", "control", "hb")},
        }  # fmt: skip
        self.connection_info = found
        return found

    async def poll(self) -> int | None:
        """None while it lives, 0 when this kernel has ended, 1 when its pod has."""
        if self._over:
            return 1
        if not self.has_process:
            return 0
        trouble: Refused | None = None
        try:
            kernel = await self._ask("GET", f"/nbgpu/v1/pods/{quote(self.pod, safe='')}/kernel")
        except Away:
            return None
        except Refused as error:
            kernel, trouble = {"state": "dead"}, error
        again = (
            self._instance is not None and kernel.get("instance", self._instance) != self._instance
        )
        if kernel.get("state") in LIVES and not again:
            # while it is being ended: the next one, which somebody else has started already
            newer = int(kernel.get("generation") or 0) > self._generation
            return 0 if self._ending and newer else None
        try:
            said = self._started_again() if again else await self._ended(trouble)
        except Away:
            return None
        if said is None:
            return None if trouble is not None else 0
        self._over = True
        self._lead_nowhere()
        self._drop_control()
        # "alive", once, to the restarter: it would restart what it has just been told to leave
        return None if self._tell(said) else 1

    async def wait(self) -> int | None:
        while (code := await self.poll()) is None:
            await asyncio.sleep(WAIT_S)
        self._generation = 0
        self._lead_nowhere()
        return code

    async def send_signal(self, signum: int) -> None:
        """SIGINT is the backend's interrupt. That nothing runs any more is no error."""
        if not self.has_process or signum == 0:
            return
        try:
            if signum == signal.SIGINT:
                await self._act("interrupt")
            else:
                await self._act("signal", signum=int(signum))
        except PodError as error:
            self.log.warning("%s", error)

    async def shutdown_requested(self, restart: bool = False) -> None:
        """Jupyter has asked the kernel itself to end; the backend has to know that it was meant."""
        self._ending = True
        if not restart:
            await self._stop()

    async def kill(self, restart: bool = False) -> None:
        self._ending = True
        await self._stop()

    async def terminate(self, restart: bool = False) -> None:
        self._ending = True
        await self._stop()

    async def cleanup(self, restart: bool = False) -> None:
        if restart:
            return
        self._generation = 0
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def get_stable_start_time(self, recommended: float = 10.0) -> float:
        return max(recommended, 30.0)

    async def get_provisioner_info(self) -> dict[str, Any]:
        found: dict[str, Any] = await super().get_provisioner_info()
        ours = {"pod": self.pod, "home": self.home, "generation": self._generation}
        return {**found, **ours, "instance": self._instance}

    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        await super().load_provisioner_info(provisioner_info)
        self.pod, self.home = provisioner_info["pod"], provisioner_info["home"]
        self._generation = int(provisioner_info["generation"])
        self._instance = provisioner_info.get("instance")

    # the sockets' folder

    def _lead_to(self, path: Path) -> str:
        """The path that clients use, the same at every start of this kernel."""
        if not Path("/proc/self/fd").is_dir():
            return str(path)
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        folder = os.open(path.parent, flags)
        if self._folder < 0:
            self._folder = folder
        else:
            os.dup2(folder, self._folder, inheritable=False)
            os.close(folder)
        return f"/proc/{os.getpid()}/fd/{self._folder}/{path.name}"

    def _lead_nowhere(self) -> None:
        if self._folder < 0:
            return
        with tempfile.TemporaryFile() as empty:
            os.dup2(empty.fileno(), self._folder, inheritable=False)

    def _drop_control(self) -> None:
        """The pod's next kernel listens at the same place, and this connection may have found it already."""
        control = getattr(self.parent, "_control_socket", None)
        if control is not None:
            control.close(linger=0)
            self.parent._control_socket = None

    # the pod's end

    async def _ended(self, trouble: Refused | None) -> str | None:
        """A sentence if the pod itself has ended, None if only its kernel has. Raises Away."""
        try:
            pod = await self._ask("GET", f"/v2/pods/{quote(self.pod, safe='')}")
        except Refused as error:
            return str(error) if error.status == 404 else None
        ours = pod.get("nbgpu", {})
        if ours.get("state") not in OVER and pod.get("status") not in (
            "EXITED",
            "ERROR",
            "TERMINATED",
        ):
            return None
        return self._sentence(ours)

    def _started_again(self) -> str:
        """Nobody saw it stopped: a kernel that was restarted by itself would hide what is lost."""
        return (
            f"The pod {self.pod} was stopped and started again: what its kernel held is gone. "
            "Restart the kernel to go on in the new one."
        )

    def _sentence(self, ours: dict[str, Any]) -> str:
        reason = (ours.get("reason") or {}).get("text", "")
        state = ours.get("state", "stopped")
        return (
            f"{sentence(f'The pod {self.pod} is {state}' + (f': {reason}' if reason else ''))} "
            f"Start it with: nbgpu start {self.pod}"
        )

    def _tell(self, said: str) -> bool:
        """Say why it is dead, and have it restarted no more. True where somebody was about to restart it.

        The manager's `reason` is what Jupyter's REST model of a kernel carries to the front end.
        """
        self.log.warning("%s", said)
        manager = self.parent
        if manager is None:
            return False
        manager.reason = said
        restarter = getattr(manager, "_restarter", None)
        if restarter is None:
            return False
        manager.stop_restarter()
        restarter._fire_callbacks("dead")
        return not manager.shutting_down

    # the backend

    async def _stop(self) -> None:
        """End this kernel, and none that was started after it."""
        try:
            kernel = await self._ask("GET", f"/nbgpu/v1/pods/{quote(self.pod, safe='')}/kernel")
            newer = int(kernel.get("generation") or 0) > max(1, self._generation)
            if kernel.get("state") in LIVES and not newer:
                await self._act("stop")
        except PodError as error:
            self.log.warning("%s", error)

    async def _act(
        self, action: str, *, signum: int | None = None, timeout_s: float = ASK_S
    ) -> Any:
        body: dict[str, Any] = {"action": action}
        if signum is not None:
            body["signum"] = signum
        path = f"/nbgpu/v1/pods/{quote(self.pod, safe='')}/kernel"
        try:
            return await self._ask("POST", path, body, timeout_s)
        except Refused as error:
            if action != "start" or error.status == 404:
                raise
            try:
                said = await self._ended(error)
            except Away:
                said = None
            raise Refused(said or str(error), error.status) from None

    async def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, timeout_s: float = ASK_S
    ) -> Any:
        return await asyncio.to_thread(self._send, method, path, body, timeout_s)

    def _send(self, method: str, path: str, body: dict[str, Any] | None, timeout_s: float) -> Any:
        """The answer's JSON. Raises Refused, Away."""
        backend = runtime.given() if not self.home else None
        if backend is None:
            home = runtime.Home(Path(self.home)) if self.home else runtime.Home.default()
            backend = runtime.read(home)
            if backend is None or not runtime.alive(backend):
                raise Away(
                    f"The pod {self.pod} cannot be reached: nbgpu's backend does not run. "
                    "Start it with: nbgpu status"
                )
        request = urllib.request.Request(
            backend.url + path, method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {backend.token}", "Content-Type": "application/json"},
        )  # fmt: skip
        # a proxy of the environment must not see the token
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=timeout_s) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Refused(_detail(error), error.code) from None
        except (OSError, ValueError) as error:
            raise Away(f"nbgpu's backend does not answer about {self.pod}: {error}") from None


def _detail(error: urllib.error.HTTPError) -> str:
    """The problem's sentence with its next step."""
    try:
        body = json.load(error)
    except ValueError:
        body = {}
    ours = body.get("nbgpu") or {}
    said = f"{ours.get('what') or ''} {ours.get('next') or ''}".strip()
    return said or str(body.get("detail") or f"nbgpu's backend answered with {error.code}.")
