"""What can go wrong with a host that is reached over SSH, each with the next step.

NbgpuError
├── Unavailable
│   ├── HostUnreachable    503  no connection; it is tried on
│   ├── LinkCut            503  the connection broke while it was asked: it may have done it
│   ├── PortRefused        503  nothing listens there
│   └── NoPython           503  no python3 of version 3.8 or newer answers there
├── Conflict
│   ├── HostKeyUnknown     409  no key of that host is pinned
│   └── HostKeyChanged     409  it shows another key than the pinned one
├── Unauthorized
│   └── AuthFailed         401  it accepts none of our keys
│       └── PassphraseNeeded    a key file is encrypted, and no agent holds it
└── TransferFailed         502  a file did not arrive as it was sent
"""

from __future__ import annotations

from nbgpu_backend.errors import (
    BadRequest,
    Conflict,
    DiskError,
    NbgpuError,
    NotFound,
    Unauthorized,
    Unavailable,
    UpstreamError,
)


class HostUnreachable(Unavailable):
    code, title = "host_unreachable", "Host unreachable"


class LinkCut(Unavailable):
    code, title = "link_cut", "Link cut"


class PortRefused(Unavailable):
    code, title = "port_refused", "Connection refused"


class NoPython(Unavailable):
    code, title = "no_python", "No Python on the host"


class HostKeyUnknown(Conflict):
    code, title = "host_key_unknown", "Unknown host key"


class HostKeyChanged(Conflict):
    code, title = "host_key_changed", "The host key changed"


class AuthFailed(Unauthorized):
    code, title = "auth_failed", "Not let in"


class PassphraseNeeded(AuthFailed):
    code, title = "passphrase_needed", "A key needs its passphrase"


class TransferFailed(UpstreamError):
    code, title = "transfer_failed", "Transfer failed"


class HostFailed(UpstreamError):
    """What the host said for which there is no class of its own; `code` is its kind."""

    code, title = "host_failed", "The host failed"


LINK_ERRORS: dict[str, type[NbgpuError]] = {
    kind.code: kind
    for kind in (
        HostUnreachable, LinkCut, PortRefused, NoPython, HostKeyUnknown, HostKeyChanged,
        AuthFailed, PassphraseNeeded, TransferFailed,
    )
}  # fmt: skip
# kinds of host.py
HOST_ERRORS: dict[str, type[NbgpuError]] = {
    "not_found": NotFound,
    "bad_request": BadRequest,
    "disk": DiskError,
    "busy": Conflict,
    "refused": PortRefused,
    "corrupt": TransferFailed,
}
# the host is not heard; what runs there runs on
AWAY = (HostUnreachable, LinkCut, HostKeyUnknown, HostKeyChanged, AuthFailed, NoPython)
# of these, another try without a change is of little use
FINAL = (HostKeyUnknown, HostKeyChanged, AuthFailed, NoPython)


def to_line(error: NbgpuError) -> dict[str, object]:
    """For the tunnel's socket."""
    return {"error": error.what, "kind": error.code, "next_step": error.next_step}


def from_line(line: dict[str, object], host: str) -> NbgpuError:
    """What the tunnel answered, with a next step, or host.py through it, without."""
    kind, what = str(line.get("kind")), str(line["error"])
    if "next_step" in line:
        known = LINK_ERRORS.get(kind) or HOST_ERRORS.get(kind, HostFailed)
        return known(what, str(line["next_step"]), code=kind)
    sentence = f"{host}: {what.rstrip('.')}."
    if kind == "disk":
        return DiskError(sentence, "Free some space there, in the home of that user.")
    return HOST_ERRORS.get(kind, HostFailed)(sentence, code=kind)
