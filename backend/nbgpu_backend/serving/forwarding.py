"""What a load balancer passes on of a request's and an answer's headers, and what it keeps. Pure.

Hop-by-hop fields end here (RFC 9110 7.6.1): those that everybody knows, and those that Connection names.
So do trailers (6.5 allows it) and ours: the service's token or an endpoint's key, in whatever header it
came, is never shown to an app. The app gets the key of its worker instead, by which it can tell this gateway from anybody else on
the machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

Headers = Sequence[tuple[bytes, bytes]]

WORKER_KEY = "X-Nbgpu-Worker-Key"
SERVICE_KEY = b"x-nbgpu-key"

HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization",
        b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip
# said to this gateway, or said anew by it
OURS = frozenset(
    {
        SERVICE_KEY, WORKER_KEY.lower().encode(), b"x-nbgpu-origin", b"x-runpod-worker-id",
        b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-prefix",
    }
)  # fmt: skip
# the handshake with the worker is one of its own
SOCKET = frozenset(
    {
        b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions",
        b"sec-websocket-protocol", b"sec-websocket-accept", b"content-length",
    }
)  # fmt: skip
# What no answer may hold: llhttp lets some of it pass, and a header must not end before it ends.
BAD_NAME = re.compile(rb"[^!#$%&'*+\-.^_`|~0-9A-Za-z]")
BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def value_of(headers: Headers, name: bytes) -> bytes | None:
    """Of the first one. Names of a request are in lower case."""
    return next((value for key, value in headers if key == name), None)


def has_body(headers: Headers) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip() != b"0")
        for name, value in headers
    )


def for_worker(
    headers: Headers,
    *,
    bearer_is_ours: bool,
    worker_key: str | None,
    client: str,
    scheme: str,
    prefix: str = "",
    socket: bool = False,
) -> list[tuple[str, str]]:
    """`bearer_is_ours`: the Authorization header holds the service's token or a key. `prefix`: the part of the path
    that is not the app's."""
    dropped = HOP_BY_HOP | OURS | _named(headers)
    if bearer_is_ours:
        dropped |= {b"authorization"}
    if socket:
        dropped |= SOCKET
    elif any(name == b"transfer-encoding" for name, _ in headers):
        dropped |= {b"content-length"}  # the chunks tell its length (RFC 9112 6.3)
    kept = [(_text(n), _text(v)) for n, v in headers if n not in dropped]
    said = {n: _text(b", ".join(v for m, v in headers if m == n)) for n in OURS}
    hops = [said[b"x-forwarded-for"], client]
    proto = scheme.replace("ws", "http")
    host = said[b"x-forwarded-host"] or _text(value_of(headers, b"host") or b"")
    kept += [
        ("X-Forwarded-For", ", ".join(filter(None, hops))),
        ("X-Forwarded-Proto", said[b"x-forwarded-proto"] or proto),
        ("X-Forwarded-Host", host),
    ]
    if prefix or said[b"x-forwarded-prefix"]:
        kept.append(("X-Forwarded-Prefix", said[b"x-forwarded-prefix"].rstrip("/") + prefix))
    if worker_key:
        kept.append((WORKER_KEY, worker_key))
    return kept


def for_client(
    status: int, headers: Iterable[tuple[bytes, bytes]], worker: str, *, socket: bool = False
) -> list[tuple[bytes, bytes]]:
    lower = [(name.lower(), value) for name, value in headers]
    dropped = HOP_BY_HOP | _named(lower) | {b"x-runpod-worker-id"}
    if socket:
        dropped |= SOCKET
    elif status in (204, 304):
        dropped |= {b"content-length"}  # of a body that does not come
    kept = [
        (name, value)
        for name, value in lower
        if name not in dropped and not BAD_NAME.search(name) and not BAD_VALUE.search(value)
    ]
    return [*kept, (b"x-runpod-worker-id", worker.encode())]


def target(raw_path: bytes, query: bytes) -> str:
    """The path and query as they came; bytes that no URL may hold are escaped."""
    whole = raw_path + (b"?" + query if query else b"")
    return "".join(chr(byte) if 0x21 <= byte < 0x7F else f"%{byte:02X}" for byte in whole)


def _named(headers: Headers) -> frozenset[bytes]:
    values = (value for name, value in headers if name == b"connection")
    return frozenset(part.strip().lower() for value in values for part in value.split(b","))


def _text(value: bytes) -> str:
    """UTF-8 passes as it is (the client to the workers writes UTF-8); what is none is read as Latin-1."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
