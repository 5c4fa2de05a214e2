"""The outermost ASGI application: the token, the data path, then everything else."""

from __future__ import annotations

from nbgpu_backend.errors import NotFound
from nbgpu_backend.schema.common import Problem
from nbgpu_backend.serving.auth import Token
from nbgpu_backend.serving.balancer import Balancer
from nbgpu_backend.serving.exchange import Exchange, Receive, Scope, Send
from nbgpu_backend.serving.gateway import Gateway
from nbgpu_backend.serving.job_api import JobApi
from nbgpu_backend.serving.problems import PROBLEM_HEADERS
from nbgpu_backend.serving.sockets import refuse

UNAUTHORIZED = (
    Problem(
        title="Unauthorized",
        status=401,
        detail="The token is missing or wrong. It stands in NBGPU_HOME/run/backend.json.",
        nbgpu={"code": "unauthorized"},
    )
    .model_dump_json(by_alias=True)
    .encode()
)
NO_SOCKET = NotFound(
    "No websocket is served here.", "Those of a load balancer are at /lb/NAME/.", code="no_route"
)


class Router:
    def __init__(
        self, gateway: Gateway, balancer: Balancer, jobs: JobApi, app: object, token: Token
    ) -> None:
        self._gateway = gateway
        self._balancer = balancer
        self._jobs = jobs
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)  # type: ignore[operator]
        elif Balancer.owns(scope):
            await self._balancer(scope, receive, send)
        elif scope["type"] == "websocket":
            await refuse(send, NO_SOCKET)
        elif Gateway.owns(scope["path"]):
            await self._gateway(scope, receive, send)
        elif JobApi.owns(scope["path"]):
            await self._jobs(scope, receive, send)
        elif self._token.given_in(dict(scope["headers"])):
            await self._app(scope, receive, send)  # type: ignore[operator]
        else:
            await Exchange(scope, receive, send).answer(401, UNAUTHORIZED, PROBLEM_HEADERS)
