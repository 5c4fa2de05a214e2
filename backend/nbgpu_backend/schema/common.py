"""What all resources share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class Model(BaseModel):
    """An answer. A reader ignores fields that a newer writer added."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    def wire(self) -> dict[str, Any]:
        """As it goes over HTTP."""
        return self.model_dump(mode="json", by_alias=True)


class Request(Model):
    """A request: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")


Dollars = Annotated[str, Field(description="decimal text, US dollars")]
Micros = Annotated[int, Field(description="UTC, microseconds since 1970")]


class Origin(Request):
    """Where something was asked for: kept with every resource and request."""

    notebook: str | None = None
    session: str | None = None
    scope: str | None = None


class Reason(Model):
    """Why something is in the state that it is in."""

    code: str
    text: str
    since_us: Micros
    values: dict[str, Any] = {}


class Problem(Model):
    """RFC 9457, as REST v2 sends it, with our code and next step."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[str] = []
    nbgpu: dict[str, Any] = {}
