"""The SDK: `gpu = nbgpu.connect()`, then `gpu.deploy("…", name="chat").ask("…")`.

One httpx connection is kept. A backend that ended meanwhile is started again, and a request that does no
harm when sent twice is sent again once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
from nbgpu_backend import runtime
from pydantic import ValidationError

from nbgpu import errors, formats, origin, wire
from nbgpu.handle import Endpoint
from nbgpu.job import Job
from nbgpu.pod import Pod
from nbgpu.results.events import EventListing
from nbgpu.results.jobs import JobListing, JobWhy, Purged
from nbgpu.results.keys import KeyListing, NewKey, RevokedKey
from nbgpu.results.listing import EndpointListing, Listing, SettingsView, Status
from nbgpu.results.offers import OfferListing
from nbgpu.results.pods import PodListing, PortView, StoppedAll
from nbgpu.results.story import Deleted, LogView, WhyView
from nbgpu.verbs.call import Call, part
from nbgpu.verbs.spec import of_face, verbs

# stop and delete answer when the workers are gone; a read may take so long
TIMEOUT = httpx.Timeout(connect=5, read=180, write=30, pool=5)
# between two pieces of an answer: the backend's own limits end it earlier
STREAM_TIMEOUT = httpx.Timeout(connect=5, read=660, write=30, pool=5)


def connect(home: runtime.Home | None = None) -> Client:
    """A client of this installation's backend, which is started if none runs."""
    client = Client(home=home)
    assert client.backend
    return client


class Client:
    """Every verb of the `sdk` face is a method: `gpu.ls()`, `gpu.show("chat")`, `gpu.stop("chat")`.

    `face` is who asks (sdk, magic, cli); `aloud` lets an answer be shown piece by piece as it comes.
    It is also the `Context` of local verbs.
    """

    def __init__(
        self,
        *,
        home: runtime.Home | None = None,
        face: str = "sdk",
        aloud: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.face = face
        self.aloud = aloud
        self._home = home
        self._say = say
        self._backend: runtime.Backend | None = None
        self._http: httpx.Client | None = None

    # what a local verb is given

    @property
    def client(self) -> Client:
        return self

    def say(self, text: str) -> None:
        if self._say is not None:
            self._say(text)

    # verbs

    def do(self, name: str, /, **values: Any) -> Any:
        """Carry out a verb. Raises errors of the tree in `nbgpu.errors`."""
        from nbgpu import flows

        verb = verbs()[name]
        for argument in verb.arguments:
            value = values.get(argument.name)
            if argument.kind in ("duration", "fine") and isinstance(value, str):
                read = formats.seconds if argument.kind == "duration" else formats.fine_seconds
                try:
                    values[argument.name] = read(value)
                except ValueError as error:
                    raise errors.UsageProblem(str(error)) from None
        try:
            if verb.local:
                return verb.load()(self, **values)
            call = self.chosen(verb.load()(**values))
        except ValidationError as error:
            raise errors.UsageProblem(_first(error)) from None
        except runtime.NbgpuError as error:
            raise errors.shown(error) from None
        found = flows.FLOWS[call.follow](self, call)
        return self.dress(call, found)

    def chosen(self, call: Call) -> Call:
        """The call for what the name stands for: pods and endpoints share one namespace."""
        if call.pod is None or not self.is_pod(call.about):
            return call
        return call.pod

    def is_pod(self, name: str) -> bool:
        summary = self.send(Call("GET", "/nbgpu/v1/summary", "Summary"))
        return any(name in (row.name, row.id) for row in summary.pods)

    def dress(self, call: Call, found: Any) -> Any:
        """The rich object of an answer."""
        match call.view:
            case "endpoint":
                return Endpoint(self, found)
            case "status":
                # a new backend on the former port is reached without this client noticing
                backend = runtime.given() or runtime.read(self.home) or self.backend
                return Status(found, backend)
            case "listing":
                return Listing(found)
            case "endpoints":
                return EndpointListing(found)
            case "pods":
                return PodListing(found)
            case "pod":
                return Pod(self, found)
            case "port":
                return PortView(found, call.about)
            case "stopped":
                return StoppedAll(found["stopped"])
            case "settings":
                return SettingsView(found)
            case "why":
                return WhyView(found)
            case "events":
                return EventListing(found, call.about)
            case "logs":
                return LogView(found, call.about, shown=call.streamed and self.aloud)
            case "deleted":
                return Deleted(call.about, found or "")
            case "jobs":
                return JobListing(found, call.about)
            case "job":
                return Job(self, found.job.endpoint, found.job.id, found)
            case "job_why":
                return JobWhy(*found)
            case "keys":
                return KeyListing(found, call.about)
            case "new_key":
                return NewKey(found)
            case "revoked":
                return RevokedKey(found)
            case "offers":
                return OfferListing(found, call.about)
            case "purged":
                return Purged(call.about, *found)
        return found

    def __getattr__(self, name: str) -> Callable[..., Any]:
        verb = of_face("sdk").get(name)
        if verb is None:
            raise AttributeError(
                f"nbgpu's client has no {name!r}.{errors.closest(name, of_face('sdk'))}"
            )
        function = verb.load()

        def method(*arguments: Any, **options: Any) -> Any:
            given = signature.bind(*arguments, **options).arguments
            return self.do(name, **given)

        signature = _public(inspect.signature(function))
        method.__name__ = method.__qualname__ = name
        method.__doc__ = function.__doc__
        method.__signature__ = signature  # type: ignore[attr-defined]
        return method

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *of_face("sdk")})

    def ask(self, name: str, text: str, *, stream: bool = False, **options: Any) -> Any:
        """Ask a model: an `Answer`, or with `stream=True` an iterator over its pieces of text.

        Options are those of the verb: system, max_tokens, temperature, raw.
        """
        if not stream:
            return self.do("ask", name=name, text=text, **options)
        from nbgpu import flows

        call: Call = verbs()["ask"].load()(name=name, text=text, **options)
        return flows.pieces(self, call)

    def endpoint(self, name: str) -> Endpoint:
        """The handle of an endpoint."""
        found = self.do("show", name=name)
        if not isinstance(found, Endpoint):
            raise errors.UsageProblem(f"{name} is no endpoint.", f"Take it with: pod({name!r})")
        return found

    def pod(self, name: str) -> Pod:
        """The handle of a pod."""
        return Pod(self, self.send(Call("GET", f"/v2/pods/{part(name)}", "Pod", about=name)))

    def job(self, id: str) -> Job:
        """The handle of a job, by its id."""
        found = self.do("show", name=id)
        if not isinstance(found, Job):
            raise errors.UsageProblem(
                f"{id} is no job but an endpoint.", "See its jobs with: ls('jobs')"
            )
        return found

    @property
    def home(self) -> runtime.Home:
        """The installation that it speaks to."""
        return self._home or runtime.Home.default()

    def frame(self, table: str, endpoint: str | None = None, since_us: int | None = None) -> Any:
        """A table of the backend's measurements (`requests`, `workers`, `ledger`) as a pandas frame.

        Columns `…_us` become UTC datetimes without the suffix; amounts become floats, in dollars.
        """
        from nbgpu.frames import frame

        params: dict[str, str | int | list[str]] = {}
        if endpoint is not None:
            params["endpoint"] = endpoint
        if since_us is not None:
            params["since_us"] = since_us
        call = Call("GET", f"/nbgpu/v1/metrics/{part(table)}", "Columns", params=params)
        return frame(self.send(call))

    # the wire

    @property
    def backend(self) -> runtime.Backend:
        """The running backend; started if there is none."""
        if self._backend is None:
            try:
                self._backend = runtime.ensure_running(self._home)
            except runtime.NbgpuError as error:
                raise errors.shown(error) from None
        return self._backend

    def send(self, call: Call) -> Any:
        """The answer, read with its model; None where there is no body."""
        response = self._send(call)
        wire.check(response, self._names)
        if call.answer is None:
            return None
        return wire.read(call.answer, response)

    def octets(
        self,
        call: Call,
        pieces: Callable[[], Iterable[bytes]] | None = None,
        length: int = 0,
    ) -> httpx.Response:
        """Send a body that is no JSON, or ask for one: the answer, read, whatever its type.

        Raises httpx.TransportError where the connection broke: the caller knows how to go on.
        """
        connection = self._connection()
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(length)}
        request = connection.build_request(
            call.method, call.path, params=dict(call.params) or None, timeout=STREAM_TIMEOUT,
            **({"content": pieces(), "headers": headers} if pieces else {"json": call.body}),
        )  # fmt: skip
        response = connection.send(request)
        wire.check(response, self._names)
        return response

    def reconnect(self) -> None:
        """After a connection broke: what follows goes to the backend that runs then."""
        self._forget()

    def _send(self, call: Call) -> httpx.Response:
        for attempt in (0, 1):
            try:
                response = self._connection().send(self._request(call))
            except httpx.ConnectError as error:
                self._forget()
                if attempt:
                    raise wire.lost(error, call) from None
            except httpx.TimeoutException as error:
                raise wire.lost(error, call) from None
            except httpx.TransportError as error:
                self._forget()
                if attempt or not (call.again or call.method == "GET"):
                    raise wire.lost(error, call) from None
            else:
                if response.status_code != 401 or attempt:
                    return response
                self._forget()  # another backend may have taken the port, with a token of its own
        raise AssertionError("unreachable")

    @contextmanager
    def streamed(self, call: Call) -> Iterator[httpx.Response]:
        """A streamed answer. Leaving it early closes the connection, which cancels the request."""
        try:
            response = self._connection().send(self._request(call), stream=True)
        except httpx.ConnectError:
            self._forget()
            response = self._connection().send(self._request(call), stream=True)
        try:
            if response.status_code >= 400:
                response.read()
                wire.check(response, self._names)
            yield response
        finally:
            response.close()

    def _request(self, call: Call) -> httpx.Request:
        body: Mapping[str, Any] | None = call.body
        if call.stamp and body is not None:
            body = origin.stamp(dict(body), folder=call.folder)
        headers = {}
        if call.method == "POST":  # jobs and requests: whom the queue is fair to
            headers["X-Nbgpu-Origin"] = origin.header()
        if call.streamed:
            headers["X-Nbgpu-Progress"] = "1"
        return self._connection().build_request(
            call.method, call.path, json=body, params=dict(call.params) or None, headers=headers,
            timeout=STREAM_TIMEOUT if call.streamed else TIMEOUT,
        )  # fmt: skip

    def _connection(self) -> httpx.Client:
        if self._http is None:
            self._http = httpx.Client(
                base_url=self.backend.url,
                headers={"Authorization": f"Bearer {self.backend.token}"},
                timeout=TIMEOUT,
                trust_env=False,  # loopback: no proxy may see the token
            )
        return self._http

    def _names(self) -> list[str]:
        """Of pods and endpoints, for "did you mean"."""
        summary = self.send(Call("GET", "/nbgpu/v1/summary", "Summary"))
        return [*(row.name for row in summary.pods), *(row.name for row in summary.endpoints)]

    def _forget(self) -> None:
        self.close()
        self._backend = None

    def close(self) -> None:
        """Give the connection back; the next call opens another."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        where = self._backend.url if self._backend else "not connected"
        return f"<nbgpu client, {where}>"


def _public(signature: inspect.Signature) -> inspect.Signature:
    return signature.replace(
        parameters=[p for name, p in signature.parameters.items() if name != "context"]
    )


def _first(error: ValidationError) -> str:
    """The first complaint of pydantic as a sentence."""
    found = error.errors()[0]
    where = ".".join(str(p) for p in found["loc"])
    return f"{where}: {found['msg'].removeprefix('Value error, ')}."


__all__ = ["Client", "Endpoint", "Job", "connect"]
