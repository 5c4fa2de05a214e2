"""What a verb returns: a request that has not been sent (stdlib only)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

if TYPE_CHECKING:
    from nbgpu.client import Client


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the backend.

    `answer` names a model of `nbgpu_backend.schema`, or is `json` (None: no body comes back). `again` says that sending
    it twice does no harm. `stamp` has the client add where it was asked for (notebook, folder).
    """

    method: str
    path: str
    answer: str | None = None
    body: Mapping[str, Any] | None = None
    params: Mapping[str, str | int | list[str]] = field(default_factory=dict)
    streamed: bool = False
    again: bool = False
    stamp: bool = False
    folder: bool = True  # stamped as well
    follow: str = ""
    view: str = ""
    about: str = ""  # the endpoint or pod that it is about
    pod: Call | None = None  # what is sent instead where `about` is a pod


class Context(Protocol):
    """What a local verb is given."""

    face: str  # magic, cli or sdk

    @property
    def client(self) -> Client: ...

    def say(self, text: str) -> None:
        """A line for the person, at once."""
        ...


def part(name: str) -> str:
    """One segment of a path."""
    return quote(name, safe="")


@dataclass(frozen=True, slots=True)
class Marks:
    """What `@verb` keeps beside the function."""

    faces: tuple[str, ...]
    local: bool
    overview: int
    examples: tuple[str, ...]
    name: str


def verb(
    *examples: str,
    faces: tuple[str, ...] = ("magic", "cli", "sdk"),
    local: bool = False,
    overview: int = 0,
    name: str = "",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a function as a verb. Examples are written for the magic, without `%gpu`."""

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__nbgpu_verb__ = Marks(  # type: ignore[attr-defined]
            faces, local, overview, examples, name or function.__name__
        )
        return function

    return mark
