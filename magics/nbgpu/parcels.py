"""Values between this notebook and a pod: pickles of protocol 5, large buffers beside them."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbgpu import errors, live
from nbgpu.formats import size
from nbgpu.verbs.call import Call, part

if TYPE_CHECKING:
    from nbgpu.client import Client

LARGE = 1_000_000  # bytes from which on the size is told
LIMIT = 256_000_000  # bytes of a value that is fetched


def values(send: Sequence[str] | Mapping[str, Any] | None, face: str) -> dict[str, Any]:
    """What is to be set in the pod, by name. Raises UsageProblem for a name that is not defined here."""
    if not send:
        return {}
    if isinstance(send, Mapping):
        return dict(send)
    shell = live.shell()
    if face == "cli" or shell is None:
        raise errors.UsageProblem(
            "--send takes variables of a notebook, and there is none here.",
            "Copy a file instead: nbgpu put NAME FILE. From Python: pod.send(x=…)",
        )
    found = {}
    for name in send:
        if name not in shell.user_ns:
            near = errors.closest(name, (n for n in shell.user_ns if not n.startswith("_")))
            raise errors.UsageProblem(
                f"{name} cannot be sent, because it is not defined here.{near}",
                "Define it in a cell before this one.",
            )
        found[name] = shell.user_ns[name]
    return found


def send(client: Client, pod: str, found: Mapping[str, Any]) -> int:
    """Set them in the pod's kernel. Returns bytes. Raises UsageProblem for what cannot be pickled."""
    from nbgpu_backend.schema import parcel

    for name in found:
        if not name.isidentifier():
            raise errors.UsageProblem(f"{name!r} is no name for a variable.")
    try:
        parts = parcel.pack(dict(found))
    except Exception as error:
        names = ", ".join(found)
        raise errors.UsageProblem(
            f"{names} cannot be sent: {type(error).__name__}: {error}.",
            "What can be pickled can be sent; make the others in the pod.",
        ) from None
    length = sum(memoryview(part).nbytes for part in parts)
    call = Call("POST", f"/nbgpu/v1/pods/{part(pod)}/send", params={"names": ",".join(found)},
                about=pod)  # fmt: skip
    if length > LARGE:
        client.say(f"{', '.join(found)}: {size(length)} to {pod}")
    _octets(client, call, lambda: (bytes_like(p) for p in parts), length)
    return length


def bytes_like(part: Any) -> Any:
    """A flat view: what is large is not copied."""
    return part if isinstance(part, bytes) else memoryview(part).cast("B")


def fetch(client: Client, pod: str, name: str, *, limit: int = LIMIT, keep: bool = True) -> Any:
    """A value of the pod's kernel, which with `keep` is set here under its name.

    What is too large stays there, and a sentence says so; then None is returned.
    """
    from nbgpu_backend.schema import parcel
    from nbgpu_backend.schema.pods import KeptThere

    call = Call("POST", f"/nbgpu/v1/pods/{part(pod)}/get", body={"name": name, "limit": limit},
                about=pod)  # fmt: skip
    try:
        response = _octets(client, call)
    except errors.ServiceError as error:
        if error.status_code in (400, 422) and not error.what.startswith(name):
            error.what = f"{name} cannot be fetched from {pod}: {error.what}"
        raise
    if response.headers.get("content-type", "").startswith("application/json"):
        client.say(kept(name, KeptThere.model_validate_json(response.content).text))
        return None
    try:
        (value,) = parcel.unpack(bytearray(response.content)).values()
    except Exception as error:
        module = f" (no module {error.name})" if isinstance(error, ModuleNotFoundError) else ""
        raise errors.ServiceError(
            f"{name} came from {pod} and cannot be read here{module}: {type(error).__name__}: {error}.",
            "Install what it needs here, too, or fetch it in a simpler form.",
            code="unreadable",
        ) from None
    length = len(response.content)
    if length > LARGE:
        client.say(f"{name}: {size(length)} from {pod}")
    shell = live.shell()
    if keep and shell is not None and _is_name(name):
        shell.user_ns[name] = value
    elif keep:
        client.say(f"{name} = {value!r:.500}")
    return value


def kept(name: str, text: str) -> str:
    """`x is 12.3 GB, still on the pod as x`."""
    if text.startswith(name):
        return text
    return f"{name} is {text}" if text[:1].isdigit() else f"{name}: {text}"


def _is_name(name: str) -> bool:
    try:
        return isinstance(ast.parse(name, mode="eval").body, ast.Name)
    except SyntaxError:
        return False


def _octets(client: Client, call: Call, pieces: Any = None, length: int = 0) -> Any:
    import httpx

    from nbgpu import wire

    try:
        return client.octets(call, pieces, length)
    except httpx.TransportError as error:
        client.reconnect()
        raise wire.lost(error, call) from None
