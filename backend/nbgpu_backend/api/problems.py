"""Errors as problem documents (RFC 9457)."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from nbgpu_backend.errors import NbgpuError
from nbgpu_backend.schema.common import Problem
from nbgpu_backend.serving.problems import PROBLEM_MEDIA, problem_of


def answer(problem: Problem, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(problem.wire(), problem.status, headers, PROBLEM_MEDIA)


async def on_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, NbgpuError)
    after = getattr(error, "retry_after_s", None)
    return answer(problem_of(error), {"Retry-After": str(after)} if after is not None else None)


async def on_invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError | ValidationError)
    lines = [_line(item) for item in error.errors()]
    first = lines[0] if lines else "the request is malformed"
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    what = f"The request cannot be carried out: {first}{more}."
    return answer(
        Problem(
            title="Bad request",
            status=400,
            detail=what,
            errors=lines,
            nbgpu={"code": "invalid_request", "what": what, "next": "", "values": {}},
        )
    )


async def on_http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    code = {404: "no_route", 405: "method"}.get(error.status_code, "http")
    return answer(
        Problem(
            title=detail,
            status=error.status_code,
            detail=f"{detail}.",
            nbgpu={"code": code, "what": f"{detail}.", "next": "", "values": {}},
        )
    )


def _line(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"] if part != "body")
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        message = "there is no such field"
    return f"{where}: {message}" if where else message
