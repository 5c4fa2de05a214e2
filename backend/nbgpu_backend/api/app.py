"""Put the surfaces together."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from nbgpu_backend.api import (
    changes,
    hosts,
    jobs,
    keys,
    nbgpu,
    pod_inside,
    pods,
    problems,
    prometheus,
    secrets,
    serverless,
)
from nbgpu_backend.api.router import Router
from nbgpu_backend.control.core import Core
from nbgpu_backend.errors import NbgpuError
from nbgpu_backend.serving.auth import Access, Token
from nbgpu_backend.serving.balancer import Balancer
from nbgpu_backend.serving.gateway import Gateway
from nbgpu_backend.serving.job_api import JobApi


def build(core: Core, token: str, version: str, shutdown: Callable[[bool], None]) -> Router:
    """`shutdown(all)` ends the server soon after it returns."""
    app = FastAPI(title="nbgpu", version=version, docs_url=None, redoc_url=None)
    app.include_router(serverless.routes(core))
    app.include_router(pods.routes(core))
    app.include_router(pods.volume_routes(core))
    app.include_router(pod_inside.routes(core))
    app.include_router(secrets.routes(core))
    app.include_router(hosts.routes(core))
    app.include_router(nbgpu.routes(core, version, shutdown))
    app.include_router(changes.routes(core))
    app.include_router(jobs.routes(core))
    app.include_router(keys.routes(core))
    app.include_router(prometheus.routes(core))
    app.add_exception_handler(NbgpuError, problems.on_error)
    app.add_exception_handler(RequestValidationError, problems.on_invalid)
    app.add_exception_handler(ValidationError, problems.on_invalid)
    app.add_exception_handler(HTTPException, problems.on_http)
    services, sink = core.services, core.endpoints.sink
    access = Access(Token(token), services.keys, services.clock, sink.refused, core.pods.of_token)
    known = (core.endpoints, sink, services.clock)
    gateway = Gateway(*known, services.wire, access)
    balancer = Balancer(*known, services.fresh_session, access)
    job_api = JobApi(core.endpoints, services.externals, access)
    return Router(gateway, balancer, job_api, app, access)
