"""A server of the user's own: one that speaks OpenAI's API and answers 200 on /health once it is ready,
or, as a load balancer, any HTTP server at all.

The options are its command line, with {port}, {model} and {name} filled in:

    %gpu deploy --engine command --name chat -- python server.py --port {port}
    %gpu deploy --lb --name site -- python app.py

Before the program may stand options of ours: --concurrency N (requests at a time, default 8, of a load
balancer 64, since an open websocket counts as one), --memory SIZE (what one worker needs, such as 2G),
and --sleep-mode for a server that has vLLM's (/sleep, /wake_up and /is_sleeping, which
VLLM_SERVER_DEV_MODE=1 and --enable-sleep-mode give it on a GPU): idle, it is put to sleep instead of
being stopped, and gives up its GPU's memory.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from nbgpu_backend.domain.supplies import Premises
from nbgpu_backend.engines.base import EngineCommand, PhaseMarker, WorkerSpec
from nbgpu_backend.errors import BadOption, BadRequest
from nbgpu_backend.home import Home

CONCURRENCY, BALANCED_CONCURRENCY = 8, 64
MEMORY_BYTES = 64 << 20
PLACEHOLDER = re.compile(r"\{(port|model|name)\}")
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
EXAMPLE = "For example: -- python server.py --port {port}"


class CommandEngine:
    """An Engine (see engines/base.py). The server should ask for the key NBGPU_WORKER_KEY, as bearer or,
    of a load balancer, in the header X-Nbgpu-Worker-Key.

    Nothing of the backend's environment is inherited but PATH; HOME is `spec.env["HOME"]`, else a
    folder under NBGPU_HOME that is nobody's. Relative paths in the command count from the folder
    in which the caller starts it.
    """

    name = "command"
    release = "1"
    pull = False
    phases: Sequence[PhaseMarker] = ()
    drain_s = 10.0
    park_s = 0.0  # a stopped server of the user's own may miss more than requests

    def __init__(self, home: Home) -> None:
        self._home = home

    def version(self) -> str:
        return "1"

    def check_options(
        self, options: Sequence[str], *, balanced: bool = False, here: bool = True
    ) -> None:
        _, command = _split(options)
        if not command:
            raise BadOption("The engine command needs a command line.", EXAMPLE)
        program = command[0]
        if here and not PLACEHOLDER.search(program) and shutil.which(program) is None:
            raise BadOption(
                f"There is no program {program!r} on PATH.",
                "Name it by its full path, or check the spelling.",
            )
        if not balanced and not any("{port}" in word for word in command):
            raise BadOption("The command says nowhere on which port the server listens.", EXAMPLE)

    def concurrency(self, options: Sequence[str], *, balanced: bool = False) -> int:
        ours, _ = _split(options)
        return ours["--concurrency"] or (BALANCED_CONCURRENCY if balanced else CONCURRENCY)

    def sleeps(self, options: Sequence[str]) -> bool:
        ours, _ = _split(options)
        return bool(ours["--sleep-mode"])

    def memory(
        self, model: Path | None, options: Sequence[str], premises: Premises | None = None
    ) -> int:
        ours, _ = _split(options)
        return ours["--memory"] or MEMORY_BYTES

    def command(self, spec: WorkerSpec) -> EngineCommand:
        _, command = _split(spec.options)
        if spec.model is None and any("{model}" in word for word in command):
            raise BadRequest("The command names {model}, and the endpoint has no model.")
        values = {"port": str(spec.port), "model": str(spec.model), "name": spec.served_name}
        argv = [PLACEHOLDER.sub(lambda found: values[found[1]], word) for word in command]
        premises, kept = spec.premises, os.environ if spec.premises is None else spec.premises.env
        # elsewhere it is found by its own PATH when it starts
        if premises is None and "/" not in argv[0] and (found := shutil.which(argv[0])):
            argv[0] = found
        home = str(self._home.root) if premises is None else premises.home
        env = {
            "PATH": kept.get("PATH", os.defpath),
            "LANG": kept.get("LANG", "C.UTF-8"),
            "HOME": f"{home}/cache/home",
            "PYTHONUNBUFFERED": "1",  # else a Python server's last words die with it
            "PORT": str(spec.port),
            "OMP_NUM_THREADS": str(max(1, spec.cpu)),
            **spec.env,
        }
        if spec.health_port:
            # whatever ports it has elsewhere: the workers of one machine share the machine's
            env |= {"PORT": str(spec.port), "PORT_HEALTH": str(spec.health_port)}
        return EngineCommand(argv, env, key_variable="NBGPU_WORKER_KEY")

    def parent(self, spec: WorkerSpec) -> None:
        return None

    def explain(self, tail: Sequence[str]) -> str:
        """The last line that names an error; a server of the user's own has no better grammar."""
        for line in reversed(tail):
            if re.search(r"\b\w*(?:error|exception|failed|not found)\b", line, re.IGNORECASE):
                return f"The server's log says: {line.strip()[:300]}"
        return ""


def _split(options: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """Our options before the program, and the command."""
    ours = {"--concurrency": 0, "--memory": 0, "--sleep-mode": 0}
    rest = list(options)
    while rest and rest[0].startswith("--"):
        flag, sign, value = rest.pop(0).partition("=")
        if flag not in ours:
            raise BadOption(f"The engine command has no option {flag}.", EXAMPLE, option=flag)
        if flag == "--sleep-mode":
            ours[flag] = 1
            continue
        if not sign:
            value = rest.pop(0) if rest else ""
        ours[flag] = _number(flag, value)
    return ours, rest


def _number(flag: str, text: str) -> int:
    found = re.fullmatch(r"(\d+)([KMG]?)", text)
    if not found or (flag == "--concurrency" and found[2]) or int(found[1]) < 1:
        raise BadOption(
            f"{flag} cannot be {text!r}.",
            "It takes a whole number" + (" such as 512M or 2G." if flag == "--memory" else "."),
            option=flag,
        )
    return int(found[1]) * UNITS[found[2]]
