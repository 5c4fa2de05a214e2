"""`/nbgpu/v1/keys`: keys that open one endpoint each."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from nbgpu_backend.schema.common import Dollars, Micros, Model, Request

Label = Annotated[str, StringConstraints(max_length=80, strip_whitespace=True, pattern=r"^[^\x00-\x1f\x7f]*$")]  # fmt: skip
PerMinute = Annotated[int, Field(ge=1, le=1_000_000)]
AtOnce = Annotated[int, Field(ge=1, le=100_000)]


class CreateKey(Request):
    """Limits that are left out are none."""

    endpoint: str = Field(description="its name or id")
    label: Label = ""
    per_minute: PerMinute | None = None
    at_once: AtOnce | None = None


class Key(Model):
    """A key without its secret, and what came with it."""

    id: str
    endpoint: str
    endpoint_id: str
    prefix: str = Field(description="how it begins")
    label: str
    per_minute: int | None = Field(description="requests and jobs a minute")
    at_once: int | None = Field(description="requests and jobs in progress")
    created_us: Micros
    used_us: Micros | None
    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: Dollars = "0"


class NewKey(Key):
    """The one answer that has the secret."""

    secret: str
    base_url: str


class KeyList(Model):
    keys: list[Key]
