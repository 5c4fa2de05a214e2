"""Volumes and secrets: list, make, remove."""

from __future__ import annotations

import getpass
import re
import sys
from typing import TYPE_CHECKING, Any

from nbgpu import consent, errors, live
from nbgpu.formats import size
from nbgpu.results.pods import Said, Secrets, Volumes
from nbgpu.verbs.call import Call, Context, part

if TYPE_CHECKING:
    from nbgpu_backend.schema.pods import Volume

    from nbgpu.client import Client

VOLUMES = "/v2/network-volumes"
SECRETS = "/nbgpu/v1/secrets"
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def volume(context: Context, action: str, name: str, size_gb: int | None, sure: bool) -> object:
    client = context.client
    if action == "ls":
        return Volumes(client.send(Call("GET", VOLUMES, "VolumeList")))
    if action == "add":
        body: dict[str, Any] = {"name": name}
        if size_gb is not None:
            body["size"] = size_gb
        made: Volume = client.send(Call("POST", VOLUMES, "Volume", body, about=name))
        return Said(
            f"The volume {made.name} is there. Open a pod with it: %gpu open NAME --volume {made.name}",
            **made.wire(),
        )
    found = _volume(client, name)
    if found.nbgpu.pods:
        raise errors.Conflict(
            f"The volume {found.name} is used by {', '.join(found.nbgpu.pods)}.",
            f"Delete that first: %gpu delete {found.nbgpu.pods[0]}",
            code="in_use", status_code=409,
        )  # fmt: skip
    if not sure:
        used = f" ({size(found.nbgpu.bytes_used)})" if found.nbgpu.bytes_used is not None else ""
        told = f"With the volume {found.name} goes all that is in it{used}."
        consent.ask(client, told, f"Remove {found.name}?")
    client.send(Call("DELETE", f"{VOLUMES}/{part(found.id)}", about=name))
    return Said(f"The volume {found.name} is gone, with all that was in it.", deleted=found.name)


def _volume(client: Client, name: str) -> Volume:
    found = client.send(Call("GET", VOLUMES, "VolumeList")).network_volumes
    for one in found:
        if name in (one.name, one.id):
            volume: Volume = one
            return volume
    raise errors.NotFound(
        f"There is no volume {name}.{errors.closest(name, [v.name for v in found])}",
        "See them with: %gpu volume ls", code="not_found", status_code=404,
    )  # fmt: skip


def secret(context: Context, action: str, name: str) -> object:
    client = context.client
    if action == "ls":
        return Secrets(client.send(Call("GET", SECRETS, "SecretList")))
    if not NAME.fullmatch(name):
        raise errors.UsageProblem(
            f"{name} is no name of a variable.", "Name only: the value is asked for."
        )
    path = f"{SECRETS}/{part(name)}"
    if action == "rm":
        client.send(Call("DELETE", path, about=name))
        return Said(f"The secret {name} is forgotten; pods that run keep it.", deleted=name)
    value = _value(name)
    client.send(Call("PUT", path, "Secret", {"value": value}, again=True, about=name))
    return Said(
        f"{name} is stored. Open a pod with it: %gpu open NAME --secret {name}", stored=name
    )


def _value(name: str) -> str:
    """Typed unseen, or from a pipe. Raises UsageProblem where it is empty or nobody can be asked."""
    try:
        if not live.in_notebook() and not sys.stdin.isatty():
            value = sys.stdin.readline().rstrip("\r\n")
        else:
            value = getpass.getpass(f"{name}: ")
    except Exception as error:  # a front end that takes no input has an exception of its own kind
        raise errors.UsageProblem(
            f"Nobody can be asked for the value of {name} here ({type(error).__name__}).",
            f"In a terminal: nbgpu secret add {name}",
        ) from None
    if not value:
        raise errors.UsageProblem(f"{name} was given no value, and nothing was stored.")
    return value
