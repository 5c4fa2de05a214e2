"""host.json: how a host is reached. Written by whoever adds the host, read by its tunnel."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from nbgpu_backend.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds."""

    tcp_s: float = 10.0
    banner_s: float = 15.0
    auth_s: float = 20.0
    channel_s: float = 15.0
    start_s: float = 60.0  # a login shell may take its time until host.py runs
    dead_s: float = 15.0  # what was sent is unacknowledged for so long: the link is gone
    ping_s: float = 5.0
    silent_s: float = 30.0  # host.py says nothing, though the link seems to be there
    orphan_s: float = 60.0  # … and it hears nothing from us: it ends
    backoff_s: float = 0.5  # doubled at each try, up to …
    backoff_most_s: float = 15.0
    refused_s: float = 15.0  # the same after a refusal, which may be its account's or its disk's
    refused_most_s: float = 300.0
    idle_s: float = 900.0  # without a client the tunnel ends


@dataclass(frozen=True, slots=True)
class Hop:
    """One machine to log in to. `known_hosts` is its pinned line: `host type base64`."""

    address: str
    user: str
    port: int = 22
    key_file: str | None = None
    known_hosts: str = ""

    @property
    def pinned(self) -> tuple[str, bytes] | None:
        """(type, key) of the pinned line; None where there is none."""
        words = self.known_hosts.split()
        for kind, text in pairwise(words):
            if kind.startswith(("ssh-", "ecdsa-", "sk-")):
                try:
                    return kind, base64.b64decode(text, validate=True)
                except ValueError:
                    return None
        return None

    @property
    def where(self) -> str:
        return f"{self.address}:{self.port}" if self.port != 22 else self.address


@dataclass(frozen=True, slots=True)
class HostSettings:
    """`code` is what is copied there into one folder: {name in it: path of the local file}; host.py and
    shim.py are always among it."""

    name: str
    target: Hop
    jump: tuple[Hop, ...] = ()
    code: Mapping[str, str] = field(default_factory=dict)
    python: str = "python3"
    times: Times = field(default_factory=Times)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """From FOLDER/host.json. Raises BadRequest with a sentence."""
        try:
            return cls.parse(json.loads((folder / "host.json").read_bytes()))
        except FileNotFoundError:
            raise BadRequest(
                f"There is no host {folder.name!r}.", "Add it with `nbgpu host add`."
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadRequest(
                f"The settings of the host {folder.name} cannot be read ({error}).",
                "Remove that host and add it again.",
            ) from None

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Self:
        return cls(
            name=str(data["name"]),
            target=_hop(data),
            jump=tuple(_hop(jump) for jump in data.get("jump") or ()),
            code=dict(data.get("code") or {}),
            python=str(data.get("python") or "python3"),
            times=Times(**(data.get("times") or {})),
        )

    def to_json(self) -> dict[str, Any]:
        """What load() reads; `fingerprint` is for a person."""
        target = {**asdict(self.target), "fingerprint": fingerprint_of(self.target)}
        jump = [asdict(hop) for hop in self.jump]
        given = {"name": self.name, **target, "jump": jump, "code": dict(self.code)}
        changed = {k: v for k, v in asdict(self.times).items() if v != getattr(Times(), k)}
        return {**given, "python": self.python, "times": changed}


def fingerprint(key: bytes) -> str:
    """As `ssh-keygen -lf` prints it."""
    digest = base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"


def fingerprint_of(hop: Hop) -> str | None:
    return fingerprint(hop.pinned[1]) if hop.pinned else None


def _hop(data: Mapping[str, Any]) -> Hop:
    key_file = data.get("key_file")
    return Hop(
        address=str(data["address"]),
        user=str(data["user"]),
        port=int(data.get("port") or 22),
        key_file=str(key_file) if key_file else None,
        known_hosts=str(data.get("known_hosts") or ""),
    )
