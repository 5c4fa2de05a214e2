"""Errors in OpenAI's shape, and as problem documents (RFC 9457)."""

from __future__ import annotations

import json
from typing import Any

from nbgpu_backend.errors import NbgpuError
from nbgpu_backend.schema.common import Problem

PROBLEM_MEDIA = "application/problem+json"
PROBLEM_HEADERS = [(b"content-type", PROBLEM_MEDIA.encode())]
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}


def openai_error(error: NbgpuError) -> dict[str, Any]:
    return {
        "error": {
            "message": str(error),
            "type": TYPES.get(error.status, "server_error"),
            "code": error.code,
            "param": None,
        }
    }


def openai_body(error: NbgpuError) -> bytes:
    return json.dumps(openai_error(error)).encode()


def problem_of(error: NbgpuError) -> Problem:
    return Problem(
        title=error.title,
        status=error.status,
        detail=str(error),
        nbgpu={
            "code": error.code, "what": error.what, "next": error.next_step, "values": _plain(error.values),
        },
    )  # fmt: skip


def problem_body(error: NbgpuError) -> bytes:
    return problem_of(error).model_dump_json(by_alias=True).encode()


def _plain(values: dict[str, object]) -> dict[str, Any]:
    kinds = (str, int, float, bool, list, dict, type(None))
    return {k: v if isinstance(v, kinds) else str(v) for k, v in values.items()}
