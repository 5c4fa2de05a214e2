"""What has to be waited for after a call: weights, workers that end, the pieces of an answer.

An interrupt cancels what was under way, says so, and goes on as `Interrupted`, which fails the cell.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from nbgpu import errors, jobflows, live, patience, places, podflows, scaleflows, words
from nbgpu.formats import dollars, size, span
from nbgpu.results.answer import Answer
from nbgpu.screen import screen
from nbgpu.stream import Progress, read
from nbgpu.verbs.call import Call, part

if TYPE_CHECKING:
    from nbgpu_backend.schema.endpoints import Endpoint
    from nbgpu_backend.schema.summary import LogLines

    from nbgpu.client import Client

POLL_S = 0.25


def plain(client: Client, call: Call) -> Any:
    return client.send(call)


# deploy


def deploy(client: Client, call: Call) -> Endpoint:
    """Create or converge, wait for weights or environment, and say in a sentence what came of it."""
    line = live.line()
    began, began_us = time.monotonic(), time.time_ns() // 1000
    first: Endpoint | None = None
    try:
        existing = Call("GET", f"/v2/serverless/{part(call.about)}", "Endpoint", about=call.about)
        places.choose(client, call, existing)
        first = client.send(call)
        found = _weights(client, call, first, line, began)
    except KeyboardInterrupt:
        line.end("")
        raise errors.Interrupted(_undo(client, call, first, began_us)) from None
    client.say(_outcome(client, first, found))
    return found


def _weights(
    client: Client, call: Call, found: Endpoint, line: live.Line, began: float
) -> Endpoint:
    outcome, changes = found.nbgpu.outcome, found.nbgpu.changes
    waited = False
    while found.nbgpu.model.fetch.state == "running":
        fetch, share = found.nbgpu.model.fetch, None
        if fetch.what == "environment":
            parts = [f"{found.name}: installing its environment"]
            parts += [fetch.text] if fetch.text else []
        elif fetch.text:
            parts = [f"{found.name}: {fetch.text}"]
        else:
            parts = [f"{found.name}: fetching {found.nbgpu.model.ref}, {size(fetch.bytes_done)}"]
        if fetch.bytes_total:
            share = fetch.bytes_done / fetch.bytes_total
            parts[0] += f" of {size(fetch.bytes_total)} ({share:.0%})"
        if fetch.seconds_left is not None:
            parts.append(f"{span(fetch.seconds_left)} left")
        parts += [f"{span(time.monotonic() - began)} so far", "$0", "interrupt to cancel"]
        line.update(" · ".join(parts), share)
        waited = True
        time.sleep(POLL_S)
        try:
            found = client.send(
                Call("GET", f"/v2/serverless/{part(found.id)}", "Endpoint", about=call.about)
            )
        except errors.OneLine:
            line.end(f"{found.name}: no longer waited for")
            raise
    fetch = found.nbgpu.model.fetch
    took = span(time.monotonic() - began)
    if fetch.state == "failed":
        line.end(f"{found.name}: no {fetch.what} after {took}" if waited else "")
        raise errors.DeployFailed(
            fetch.error or f"The {fetch.what} of {found.nbgpu.model.ref} did not come.",
            "" if fetch.error else f"See %gpu why {found.name}",
        )
    if waited:
        done = f"weights fetched in {took}"
        done += f" ({size(fetch.bytes_total)})" if fetch.bytes_total else ""
        if fetch.what == "environment":
            done = f"environment installed in {took}"
        line.end(f"{found.name}: {done}")
    found.nbgpu.outcome, found.nbgpu.changes = outcome, changes
    return found


def _outcome(client: Client, first: Endpoint, found: Endpoint) -> str:
    n, limits = found.nbgpu, found.workers
    start = "%gpu start" if client.face == "magic" else "nbgpu start"
    troubled = ""
    if n.state in ("stopped", "failed"):
        troubled = f" It is {n.state}: {n.reason.text} Start it again with: {start} {found.name}"
    if first.nbgpu.outcome == "attached":
        age = max(0.0, time.time() - n.created_us / 1e6)
        return f"{found.name} is already up, {span(age)}, {dollars(n.cost_so_far)}.{troubled}"
    if first.nbgpu.outcome == "changed":
        changes = "; ".join(line for c in n.changes for line in _change(c.field, c.old, c.new))
        return f"{found.name} is changed, and its workers with it: {changes}.{troubled}"
    ask = "%%gpu ask" if client.face == "magic" else "nbgpu ask"
    then = f"Ask it with: {ask} {found.name}"
    from nbgpu_backend.schema.endpoints import BalancerUrls  # loaded by now, for `found`

    if isinstance(found.request_urls, BalancerUrls):
        then = f"It is reached at {n.base_url}/ with the token in the header X-Nbgpu-Key"
    elif n.model.source == "handler":
        then = f"Its jobs are posted to {found.request_urls.run}"
    said = (
        f"{found.name} is deployed: {limits.min} to {limits.max} workers, "
        f"each stops after {span(limits.idle_timeout)} without work. {then}"
    )
    if limits.min:
        said += "\n" + scaleflows.always_on(found)
    return said + troubled


def _change(field: str, old: Any, new: Any) -> Iterator[str]:
    """`workers.max 1 → 2`; of an object only what differs in it."""
    if field == "scaling":
        yield f"scaling {words.scaling(old)} → {words.scaling(new)}"
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            if old.get(key) != new.get(key):
                yield from _change(f"{field}.{key}", old.get(key), new.get(key))
    else:
        yield f"{field} {_value(old)} → {_value(new)}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _undo(client: Client, call: Call, found: Endpoint | None, began_us: int) -> str:
    """Delete what this deploy created. A second's grace, as clocks go."""
    name = call.about
    try:
        if found is None:
            found = client.send(Call("GET", f"/v2/serverless/{part(name)}", "Endpoint"))
            created = found.nbgpu.created_us >= began_us - 1_000_000
        else:
            created = found.nbgpu.outcome in (None, "created")
        if not created:
            return f"interrupted; {name} was there before and stays."
        client.send(Call("DELETE", f"/v2/serverless/{part(found.id)}"))
        return f"interrupted; {name}, which this deploy had created, is deleted again."
    except errors.NotFound:
        return f"interrupted; {name} had not been created."
    except errors.OneLine as error:
        return f"interrupted; {name} could not be deleted: {error}"


# stop and delete: the answer comes when the workers are gone


def stop(client: Client, call: Call) -> Any:
    return patience.patient(client, call, "stopping, its workers end what they do", "is stopped")


def delete(client: Client, call: Call) -> Any:
    return patience.patient(client, call, "deleting, its workers end what they do", "is deleted")


# ask


def ask(client: Client, call: Call) -> Answer:
    """The whole answer; with `client.aloud` it is shown as it comes."""
    answer = Answer(call.about)
    show = screen(client)
    began = time.monotonic()
    try:
        for event in _events(client, call, answer):
            if isinstance(event, Progress):
                show.wait(event.line(call.about), event.share())
            else:
                show.piece(answer, event)
    except KeyboardInterrupt:
        said = f"interrupted; the request to {call.about} is cancelled after {span(time.monotonic() - began)}."
        show.broke(answer, "cancelled")
        raise errors.Interrupted(said) from None
    except errors.OneLine:
        show.broke(answer, "failed")
        raise
    show.end(answer)
    return answer


def pieces(client: Client, call: Call) -> Iterator[str]:
    """The text as it comes. Closing the iterator cancels the request."""
    answer = Answer(call.about)
    for event in _events(client, call, answer):
        if isinstance(event, str):
            yield event


def _events(client: Client, call: Call, answer: Answer) -> Iterator[Progress | str]:
    import httpx

    from nbgpu import wire

    try:
        with client.streamed(call) as response:
            yield from read(response.iter_lines(), answer)
    except httpx.TransportError as error:
        failure = errors.EngineFailed(str(wire.lost(error, call)), code="backend")
        failure.text = answer.said
        raise failure from None


# logs


def follow_log(client: Client, call: Call) -> LogLines:
    """Its lines as they come, until it ends."""
    import httpx
    from nbgpu_backend.schema.summary import LogLines

    from nbgpu import wire

    lines: list[str] = []
    try:
        with client.streamed(call) as response:
            for text in response.iter_lines():
                if text.startswith("data: "):
                    lines.append(json.loads(text[6:])["line"])
                    if client.aloud:
                        print(lines[-1], flush=True)
    except KeyboardInterrupt:
        raise errors.Interrupted(f"interrupted; {call.about} goes on.") from None
    except httpx.TransportError as error:
        raise wire.lost(error, call) from None
    return LogLines(worker=None, lines=lines)


FLOWS: dict[str, Callable[[Client, Call], Any]] = {
    "": plain, "deploy": deploy, "stop": stop, "delete": delete, "ask": ask,
    "scale": scaleflows.scale, "warm": scaleflows.warm,
    "show_job": jobflows.show, "why_job": jobflows.why, "cancel_job": jobflows.cancel,
    "retry_job": jobflows.retry, "purge": jobflows.purge,
    "open": podflows.open_pod, "start_pod": podflows.start, "stop_pod": podflows.stop,
    "delete_pod": podflows.delete, "delete_pod_asking": podflows.delete_asking,
    "extend": podflows.extend, "logs": follow_log, "stop_all": podflows.stop_all,
    "stop_all_asking": podflows.stop_all_asking,
}  # fmt: skip
