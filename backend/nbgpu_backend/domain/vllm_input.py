"""The forms of a job's input that vLLM workers take, as RunPod's worker-vllm reads them. Pure.

`openai_route` with `openai_input` (a POST) or alone (a GET); `route` with `body` and `method`; `prompt` or
`messages` with `sampling_params` and `stream`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FORMS = (
    'It takes {"prompt": …} or {"messages": […]} with "sampling_params" and "stream", or '
    '{"openai_route": "/v1/…", "openai_input": {…}}.'
)


class BadInput(ValueError):
    """What is wrong with an input, as a sentence."""


@dataclass(frozen=True, slots=True)
class EngineCall:
    method: str
    route: str
    body: dict[str, Any] | None = None

    @property
    def streamed(self) -> bool:
        return self.body is not None and self.body.get("stream") is True


def read_input(given: Any, model: str) -> EngineCall:
    """`model`: the name that is served, filled in where the input names none. Raises BadInput."""
    if not isinstance(given, dict):
        raise BadInput(f"The input must be an object. {FORMS}")
    if (route := given.get("openai_route")) is not None:
        return _routed(route, given.get("openai_input"), None, model)
    if (route := given.get("route")) is not None:
        return _routed(route, given.get("body"), given.get("method"), model)
    parameters = given.get("sampling_params") or {}
    if not isinstance(parameters, dict):
        raise BadInput("'sampling_params' must be an object.")
    body: dict[str, Any] = {"model": model, **parameters, "stream": given.get("stream") is True}
    if "messages" in given:
        return EngineCall("POST", "/v1/chat/completions", {**body, "messages": given["messages"]})
    if "prompt" in given:
        if isinstance(given["prompt"], list):  # messages under the older name
            return EngineCall("POST", "/v1/chat/completions", {**body, "messages": given["prompt"]})
        return EngineCall("POST", "/v1/completions", {**body, "prompt": given["prompt"]})
    raise BadInput(f"The input names neither prompt nor messages. {FORMS}")


def _routed(route: Any, body: Any, method: Any, model: str) -> EngineCall:
    if not isinstance(route, str) or not route.startswith("/") or ".." in route or "?" in route:
        raise BadInput(f"{route!r} is no route. {FORMS}")
    if body is None:
        if method not in (None, "GET"):
            raise BadInput(f"A {method} needs a body.")
        return EngineCall("GET", route)
    if not isinstance(body, dict):
        raise BadInput("The body of a route must be an object.")
    if method not in (None, "POST"):
        raise BadInput(f"{method} takes no body here; use POST.")
    return EngineCall("POST", route, {"model": model, **body})
