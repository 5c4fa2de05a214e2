"""The outermost ASGI application: the token, the data path, then everything else."""

from __future__ import annotations

import re

from nbgpu_backend.errors import Forbidden, NbgpuError, NotFound, Unauthorized
from nbgpu_backend.schema.common import Problem
from nbgpu_backend.serving.auth import Access
from nbgpu_backend.serving.balancer import Balancer
from nbgpu_backend.serving.exchange import Exchange, Receive, Scope, Send
from nbgpu_backend.serving.gateway import Gateway
from nbgpu_backend.serving.job_api import JobApi
from nbgpu_backend.serving.problems import PROBLEM_HEADERS
from nbgpu_backend.serving.sockets import refuse

PROMETHEUS = "/metrics"
CHALLENGE = (b"www-authenticate", b'Basic realm="nbgpu"')  # for who opens it in a browser
TERMINAL = re.compile(r"/nbgpu/v1/pods/[^/]+/terminal")
NO_SOCKET = NotFound(
    "No websocket is served here.", "Those of a load balancer are at /lb/NAME/.", code="no_route"
)


class Router:
    """A key of an endpoint opens what `gateway` and `jobs` have for it, and nothing of `app`."""

    def __init__(
        self, gateway: Gateway, balancer: Balancer, jobs: JobApi, app: object, access: Access
    ) -> None:
        self._gateway = gateway
        self._balancer = balancer
        self._jobs = jobs
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)  # type: ignore[operator]
        elif Balancer.owns(scope):
            await self._balancer(scope, receive, send)
        elif scope["type"] == "websocket":
            refusal = self._refusal(scope) if TERMINAL.fullmatch(scope["path"]) else NO_SOCKET
            if refusal is not None:
                await refuse(send, refusal)
            else:
                await self._app(scope, receive, send)  # type: ignore[operator]
        elif Gateway.owns(scope["path"]):
            await self._gateway(scope, receive, send)
        elif JobApi.owns(scope["path"]):
            await self._jobs(scope, receive, send)
        elif (refusal := self._refusal(scope)) is None:
            await self._app(scope, receive, send)  # type: ignore[operator]
        else:
            headers = PROBLEM_HEADERS
            if scope["path"] == PROMETHEUS and refusal.status == 401:
                headers = [*headers, CHALLENGE]
            exchange = Exchange(scope, receive, send)
            await exchange.answer(refusal.status, _problem(refusal), headers)

    def _refusal(self, scope: Scope) -> NbgpuError | None:
        headers = dict(scope["headers"])
        token = self._access.token
        if token.given_in(headers):
            return None
        if scope["path"] == PROMETHEUS and token.password_in(headers):
            return None
        if (pod := self._access.pod(headers)) is not None:
            if pod_may(pod, scope.get("method", ""), scope["path"]):
                return None
            return Forbidden(
                "From inside a pod one can look at everything, use endpoints, and end or extend "
                "that pod; nothing else.",
                "Do it from the notebook that opened the pod.",
                code="pod_forbidden",
            )
        if self._access.finds(headers):
            return Forbidden(
                "A key opens the models and jobs of its endpoint, and nothing else.",
                "The token for all else stands in NBGPU_HOME/run/backend.json.",
                code="key_forbidden",
            )
        return Unauthorized(
            "The token is missing or wrong.", "It stands in NBGPU_HOME/run/backend.json."
        )


def pod_may(pod: str, method: str, path: str) -> bool:
    """What a pod's own token opens beside the endpoints."""
    own = path.startswith((f"/v2/pods/{pod}/", f"/nbgpu/v1/pods/{pod}/"))
    hidden = (
        path.startswith("/nbgpu/v1/pods/") and not own
    )  # the kernels of others, and their files
    return own or (method in ("GET", "HEAD") and not hidden)


def _problem(error: NbgpuError) -> bytes:
    problem = Problem(
        title=error.title,
        status=error.status,
        detail=str(error),
        nbgpu={"code": error.code, "what": error.what, "next": error.next_step, "values": {}},
    )
    return problem.model_dump_json(by_alias=True).encode()
