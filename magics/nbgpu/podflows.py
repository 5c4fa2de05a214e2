"""The life of a pod: what is waited for, and said, when one is opened, started, stopped, deleted."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbgpu import consent, errors, live, patience, places, words
from nbgpu.formats import dollars, per_hour, plural, sentence, size, span
from nbgpu.results.pod import value_text
from nbgpu.verbs.call import Call, part

if TYPE_CHECKING:
    from nbgpu_backend.schema.pods import Pod

    from nbgpu.client import Client

POLL_S = 0.25
SOON_S = 0.05  # the first polls: a pod without an environment to make is up in a moment
UP = ("idle", "busy")
OVER = ("failed", "stopped", "stopping")
SAME_US = 10_000_000  # --until of a pod that was asked for so long, to the second or so
MOST_FILES = 50_000


def _asking(name: str) -> Call:
    return Call("GET", f"/v2/pods/{part(name)}", "Pod", about=name)


def _get(client: Client, name: str) -> Pod:
    found: Pod = client.send(_asking(name))
    return found


# open and start


def open_pod(client: Client, call: Call) -> Pod:
    """Create or converge, wait until it is up, and say in a sentence what came of it."""
    line, began_us = live.line(), time.time_ns() // 1000
    first: Pod | None = None
    try:
        places.choose(client, call, _asking(call.about))
        _keep_until(client, call)
        first = client.send(call)
        found = _up(client, first, line)
    except KeyboardInterrupt:
        line.end("")
        raise errors.Interrupted(_undo(client, call, first, began_us)) from None
    client.say(_outcome(first, found, client.face))
    return found


def _keep_until(client: Client, call: Call) -> None:
    """`--until 8h` of a pod that was opened with it is the same instant still, not eight hours from now."""
    assert call.body is not None
    limits = call.body["nbgpu"].get("limits", {})
    if "untilUs" not in limits:
        return
    try:
        n = _get(client, call.about).nbgpu
    except errors.NotFound:
        return
    now_us, had = time.time_ns() // 1000, n.limits.until_us
    if had is None or had <= now_us:
        return
    asked = limits["untilUs"] - now_us
    began = [at for at in (n.created_us, n.started_us) if at is not None]
    if any(abs(had - at - asked) <= SAME_US for at in began):
        limits["untilUs"] = had


def _up(client: Client, found: Pod, line: live.Line) -> Pod:
    """Wait until it is up. Raises OpenFailed, with the end of its log."""
    outcome, changes, began = found.nbgpu.outcome, found.nbgpu.changes, time.monotonic()
    waited, pause = False, SOON_S
    name = found.name
    while found.nbgpu.state not in UP:
        n = found.nbgpu
        took = time.monotonic() - began
        if n.state in OVER:
            line.end(f"{name}: {n.state} after {span(took)}" if waited else "")
            raise failed(found)
        doing = n.preparation.text if n.state == "preparing" else ""
        parts = [f"{name}: {doing or n.reason.text or n.state}", f"{span(took)} so far",
                 dollars(n.cost_so_far), "interrupt to cancel"]  # fmt: skip
        line.update(" · ".join(parts))
        waited = waited or took > patience.SLOW_S
        time.sleep(pause)
        pause = min(POLL_S, pause * 1.5)
        try:
            found = _get(client, found.id)
        except errors.OneLine:
            line.end(f"{name}: no longer waited for")
            raise
    line.end(f"{name}: up after {span(time.monotonic() - began)}" if waited else "")
    found.nbgpu.outcome, found.nbgpu.changes = outcome, changes
    return found


def failed(found: Pod) -> errors.OpenFailed:
    n = found.nbgpu
    tail = "".join(f"\n  {line}" for line in n.tail[-8:])
    said = n.preparation.error or n.reason.text or f"{found.name} is {n.state}."
    return errors.OpenFailed(
        sentence(f"{found.name} is {n.state}: {said}") + tail + ("\n" if tail else ""),
        f"See %gpu why {found.name}, and try again with: %gpu start {found.name}",
    )


def _outcome(first: Pod, found: Pod, face: str) -> str:
    n = found.nbgpu
    if n.outcome == "attached":
        age = max(0.0, time.time() - (n.started_us or n.created_us) / 1e6)
        return f"{found.name} is already up, {span(age)}, {dollars(n.cost_so_far)}."
    if n.outcome == "changed":
        changes = "; ".join(
            f"{c.field} {value_text(c.field, c.old)} → {value_text(c.field, c.new)}"
            for c in n.changes
        )
        return f"{found.name} is changed: {changes}."
    run = "%%gpu run" if face == "magic" else "nbgpu run"
    ends = f" It ends by itself at {words.clock(n.stops_at_us)}" if n.stops_at_us else ""
    ends += f": {words.ends_why(n.stops_why)}" if ends and n.stops_why else ""
    return (
        f"{found.name} is open, {per_hour(n.rate_per_hour)}. Run a cell in it with: {run} {found.name}"
        + (f"\n{ends.strip()}" if ends else "")
    )


def _undo(client: Client, call: Call, found: Pod | None, began_us: int) -> str:
    """Delete what this created. A second's grace, as clocks go."""
    name = call.about
    try:
        if found is None:
            found = _get(client, name)
            created = found.nbgpu.created_us >= began_us - 1_000_000
        else:
            created = found.nbgpu.outcome in (None, "created")
        if not created:
            return f"interrupted; {name} was there before and stays."
        client.send(Call("DELETE", f"/v2/pods/{part(found.id)}"))
        return f"interrupted; {name}, which this had created, is deleted again."
    except errors.NotFound:
        return f"interrupted; {name} had not been created."
    except errors.OneLine as error:
        return f"interrupted; {name} could not be deleted: {error}"


def start(client: Client, call: Call) -> Pod:
    line = live.line()
    found: Pod = client.send(call)
    try:
        return _up(client, found, line)
    except KeyboardInterrupt:
        line.end("")
        raise errors.Interrupted(
            f"interrupted; {call.about} goes on starting. Stop it with: %gpu stop {call.about}"
        ) from None


# stop, extend, delete


def stop(client: Client, call: Call) -> Pod:
    found: Pod = patience.patient(client, call, "stopping, it ends what it does", "is stopped")
    line, began, waited = live.line(), time.monotonic(), False
    while found.nbgpu.state == "stopping":  # an answer that came before the end
        took = time.monotonic() - began
        if took > patience.SLOW_S:
            waited = True
            line.update(f"{call.about}: {found.nbgpu.reason.text} · {span(took)} so far")
        try:
            time.sleep(POLL_S)
        except KeyboardInterrupt:
            line.end(f"{call.about}: no longer waited for" if waited else "")
            said = f"interrupted; stopping {call.about} goes on in the backend."
            raise errors.Interrupted(said) from None
        found = _get(client, found.id)
    line.end(f"{call.about} is stopped, after {span(time.monotonic() - began)}" if waited else "")
    return found


def extend(client: Client, call: Call) -> Pod:
    found: Pod = client.send(call)
    n = found.nbgpu
    if n.stops_at_us is None:
        client.say(f"{found.name} does not end by itself.")
    else:
        why = f" ({words.ends_why(n.stops_why)})" if n.stops_why else ""
        client.say(f"{found.name} ends by itself at {words.clock(n.stops_at_us)} now{why}.")
    return found


def delete_asking(client: Client, call: Call) -> str:
    return _delete(client, call, sure=False)


def delete(client: Client, call: Call) -> str:
    return _delete(client, call, sure=True)


def _delete(client: Client, call: Call, *, sure: bool) -> str:
    """What stays, in words."""
    found = _get(client, call.about)
    keep = bool(call.params.get("keepVolume"))
    told = what_goes(found, keep=keep)
    if not sure:
        consent.ask(
            client, told, f"Delete {found.name}?",
            "Add --yes" + ("." if keep or found.nbgpu.volume_name else ", or --keep-volume --yes."),
        )  # fmt: skip
    patience.patient(client, call, "deleting, it ends what it does", "is deleted")
    n = found.nbgpu
    if n.volume_name is not None:
        return f"The volume {n.volume_name} stays."
    return f"Its /workspace is kept as the volume {n.volume_id}: see %gpu volume ls" if keep else ""


def what_goes(found: Pod, *, keep: bool) -> str:
    """`With train go its home and the packages installed in it, and its own volume (1.2 GB).`"""
    n = found.nbgpu
    goes = f"With {found.name} go its home and the packages installed in it"
    if n.volume_name is not None:
        return f"{goes}; its volume {n.volume_name} stays."
    if keep:
        return f"{goes}; what is in /workspace is kept."
    used = folder_size(n.workspace)
    return f"{goes}, and its own volume, /workspace{f' ({used})' if used else ''}."


def folder_size(path: str) -> str:
    """What the files of a folder here come to; nothing where it cannot be read."""
    if not path or not Path(path).is_dir():
        return ""
    total = count = 0
    for folder, _, names in os.walk(path):
        for name in names:
            count += 1
            try:
                total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118
            except OSError:
                continue
        if count > MOST_FILES:
            return f"more than {size(total)}"
    return f"{size(total)} in {plural(count, 'file')}" if count else "empty"


def stop_all_asking(client: Client, call: Call) -> Any:
    summary = client.send(Call("GET", "/nbgpu/v1/summary", "Summary"))
    pods, endpoints = len(summary.pods), len(summary.endpoints)
    told = f"This stops all: {plural(pods, 'pod')} and {plural(endpoints, 'endpoint')}, with what they do."
    consent.ask(client, told, "Stop all?")
    return stop_all(client, call)


def stop_all(client: Client, call: Call) -> Any:
    return patience.patient(client, call, "stopping everything", "are stopped")
