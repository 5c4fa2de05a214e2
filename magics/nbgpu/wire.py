"""Reading what the backend answers: models, problem documents, OpenAI errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import httpx
from pydantic import BaseModel

from nbgpu import errors
from nbgpu.verbs.call import Call

ENDPOINT = re.compile(
    r"^/(?:v2/(?:serverless|pods)|nbgpu/v1/(?:why|logs|warm|pods)|v2(?=/[^/]+/openai/))/([^/]+)"
)
MODULES = (
    "endpoints",
    "summary",
    "metrics",
    "events",
    "jobs",
    "hosts",
    "keys",
    "offers",
    "pods",
    "secrets",
)
JSON = "json"  # an answer without a model: RunPod's job API, whose bodies pass as they are


@cache
def model(name: str) -> type[BaseModel]:
    """A model of `nbgpu_backend.schema` by its name."""
    from importlib import import_module

    for module in MODULES:
        found = getattr(import_module(f"nbgpu_backend.schema.{module}"), name, None)
        if found is not None:
            kind: type[BaseModel] = found
            return kind
    raise LookupError(name)


def read(name: str, response: httpx.Response) -> Any:
    try:
        return (
            response.json() if name == JSON else model(name).model_validate_json(response.content)
        )
    except ValueError:  # pydantic's is one, too
        raise errors.BackendDown(
            f"The backend answered {response.request.method} {response.request.url.path} in a way that "
            "this nbgpu does not understand.",
            "They may be of different versions: restart it with `nbgpu shutdown`, and this kernel too.",
            code="misunderstood",
        ) from None


def check(response: httpx.Response, names: Callable[[], list[str]]) -> None:
    """Raise the error that a response with a status of 400 or more stands for."""
    if response.status_code < 400:
        return
    try:
        body: Any = response.json()
    except ValueError:
        body = {}
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        failure = engine_error(body["error"], response.status_code)
        if response.status_code == 404:
            failure.next_step = _suggest(response, str(failure), failure.next_step, names)
        raise failure
    ours = body.get("nbgpu") or {} if isinstance(body, dict) else {}
    detail = body.get("detail") if isinstance(body, dict) else None
    if isinstance(body, dict) and isinstance(body.get("error"), str):  # the shape of the job API
        ours = {"what": body["error"], "code": body.get("code")}
    what = ours.get("what") or detail or f"The backend answered with status {response.status_code}."
    next_step = ours.get("next") or ""
    kind: type[errors.ServiceError] = errors.ServiceError
    if response.status_code == 404:
        kind = errors.NotFound
        next_step = _suggest(response, f"{what} {next_step}", next_step, names)
    elif response.status_code == 409:
        kind = errors.Conflict
    code = ours.get("code") or f"http_{response.status_code}"
    error = kind(what, next_step, code=code, status_code=response.status_code)
    error.values = ours.get("values") or {}
    raise error


def engine_error(body: dict[str, Any], status: int = 502) -> errors.EngineFailed:
    """From OpenAI's error shape."""
    message = str(body.get("message") or "The model did not answer.")
    next_step = ""
    if "chat template" in message:
        next_step = "This model knows no chat: ask with --raw, and it continues the text."
    return errors.EngineFailed(
        message, next_step, code=str(body.get("code") or body.get("type") or "upstream"),
        status_code=status,
    )  # fmt: skip


def _suggest(
    response: httpx.Response, said: str, next_step: str, names: Callable[[], list[str]]
) -> str:
    """The next step, with "did you mean" for the name in the path unless that was `said`."""
    if "id you mean" in said:
        return next_step
    asked = ENDPOINT.search(response.request.url.path)
    try:
        known = names() if asked else []
    except errors.OneLine:
        known = []
    if asked is None or asked[1] in known:
        return next_step
    return f"{errors.closest(asked[1], known)} {next_step}".strip()


def lost(error: httpx.TransportError, call: Call) -> errors.BackendDown:
    """The backend did not answer, or ended while it did."""
    if isinstance(error, httpx.TimeoutException):
        return errors.BackendDown(
            f"The backend has not answered {call.method} {call.path} in time.",
            "See what it does with: nbgpu status. Its log is run/backend.log in NBGPU_HOME.",
        )
    unsure = "" if call.again or call.method == "GET" else " Whether it was carried out is unknown."
    return errors.BackendDown(
        f"The backend ended while it answered {call.method} {call.path}.{unsure}",
        "The next command starts it again; see what there is with: %gpu ls",
    )
