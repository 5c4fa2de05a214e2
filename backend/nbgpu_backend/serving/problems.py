"""Errors in OpenAI's shape."""

from __future__ import annotations

import json
from typing import Any

from nbgpu_backend.errors import NbgpuError

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
