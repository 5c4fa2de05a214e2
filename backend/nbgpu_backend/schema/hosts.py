"""`/nbgpu/v1/hosts`: own servers that are reached over SSH."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nbgpu_backend.schema.common import Dollars, Micros, Model, Request

HostName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
LinkState = Literal["stopped", "connecting", "connected", "unreachable", "refused"]


class AskContact(Request):
    """`target` and `jump` are [user@]host[:port], or a name of ~/.ssh/config."""

    target: str
    key_file: str | None = None
    jump: str | None = Field(None, description="a host to go through, instead of those of ssh")
    fingerprints: list[str] = Field([], description="of keys that were accepted, in order of hops")


class ShownKey(Model):
    """`fingerprint` as ssh-keygen prints it."""

    where: str
    kind: str
    fingerprint: str


class Contact(Model):
    """Whom one would log in to, and the keys that they show; the target's is the last.

    `more`: the last is a jump host's, and what lies behind it is met once its key is accepted.
    """

    user: str
    address: str
    port: int
    keys: list[ShownKey]
    more: bool = False


class AddHost(Request):
    """`fingerprints` are those of the keys that were accepted, in the order of `Contact.keys`."""

    name: HostName
    target: str
    key_file: str | None = None
    jump: str | None = None
    fingerprints: list[str] = Field(min_length=1)
    rate: str | None = Field(None, description="dollars an hour")


class Finding(Model):
    """`advice` is what to do where it is not `good`."""

    what: str
    good: bool
    text: str
    advice: str = ""


class HostFacts(Model):
    """As it was last heard."""

    hostname: str
    python: str
    cpus: int
    memory: int
    memory_available: int
    disk_free: int
    gpus: list[str]
    clock_offset_ms: float


class Host(Model):
    name: str
    user: str
    address: str
    port: int
    fingerprint: str | None
    state: LinkState
    since_us: Micros | None
    sentence: str = Field(description="why it is not connected")
    next_step: str = ""
    facts: HostFacts | None
    pods: list[str] = Field(description="names of those that are there")
    endpoints: list[str] = Field(
        [], description="names of those that have workers there, or can have them there only"
    )
    rate_per_hour: Dollars = Field(description="of each worker or pod there")
    priced: bool = Field(False, description="that rate was set")
    findings: list[Finding] = Field([], description="of a check")


class HostList(Model):
    hosts: list[Host]
