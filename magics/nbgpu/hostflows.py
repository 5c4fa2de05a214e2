"""Hosts: list, meet and add, show, check, remove."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbgpu import consent, errors, live
from nbgpu.results.hosts import HostListing, HostView
from nbgpu.results.pods import Said
from nbgpu.verbs.call import Call, Context, part

if TYPE_CHECKING:
    from nbgpu_backend.schema.hosts import Contact, ShownKey

HOSTS = "/nbgpu/v1/hosts"


def host(
    context: Context,
    action: str,
    name: str,
    target: str,
    key: str | None,
    jump: str | None,
    fingerprint: str | None,
    rate: str | None,
    sure: bool,
) -> object:
    client, path = context.client, f"{HOSTS}/{part(name)}"
    if action == "ls":
        return HostListing(client.send(Call("GET", HOSTS, "HostList")))
    if action == "add":
        return _add(context, name, target, key, jump, fingerprint, rate, sure)
    if action == "show":
        return HostView(client.send(Call("GET", path, "Host", about=name)))
    if action == "check":
        return HostView(client.send(Call("POST", f"{path}/check", "Host", {}, about=name)))
    if action == "reconnect":
        return HostView(client.send(Call("POST", f"{path}/reconnect", "Host", {}, about=name)))
    if not sure:
        told = f"{name} is forgotten here; what was made there stays on its disk, in ~/.nbgpu."
        consent.ask(client, told, f"Remove {name}?")
    client.send(Call("DELETE", path, about=name))
    return Said(f"The host {name} is removed.", removed=name)


def _add(
    context: Context,
    name: str,
    target: str,
    key: str | None,
    jump: str | None,
    fingerprint: str | None,
    rate: str | None,
    sure: bool,
) -> object:
    client = context.client
    asked: dict[str, Any] = {
        "target": target,
        **({"keyFile": key} if key else {}),
        **({"jump": jump} if jump else {}),
    }
    accepted: list[str] = []
    while True:  # each jump host before what lies behind it
        body = {**asked, "fingerprints": accepted}
        met: Contact = client.send(Call("POST", f"{HOSTS}/contact", "Contact", body))
        _accept(context, met.keys[-1], None if met.more else fingerprint, sure)
        accepted = [shown.fingerprint for shown in met.keys]
        if not met.more:
            break
    line = live.line()
    line.update(f"{name}: logging in to {met.user}@{met.address}, and looking around")
    body = {**asked, "name": name, "fingerprints": accepted, **({"rate": rate} if rate else {})}
    try:
        found = client.send(Call("POST", HOSTS, "Host", body, about=name))
    finally:
        line.end("")
    client.say(f"{name} is added. Open a pod there with: %gpu open NAME --on {name}")
    return HostView(found)


def _accept(context: Context, shown: ShownKey, expected: str | None, sure: bool) -> None:
    """Compare the key with the expected one, or ask. Raises UsageProblem."""
    if expected is not None:
        if expected != shown.fingerprint:
            raise errors.UsageProblem(
                f"{shown.where} shows another key: {shown.fingerprint}.",
                "Was it set up anew, or does somebody stand between?",
            )
    elif not sure:
        told = f"{shown.where} shows the {shown.kind} key {shown.fingerprint}."
        how = "Add --yes, or better: --fingerprint SHA256:…"
        consent.ask(context.client, told, "Is that its key?", how)
