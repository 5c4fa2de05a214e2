"""Run a cell in a pod's kernel, and show here what it does there."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbgpu import errors, live, parcels, runoutput, words
from nbgpu.formats import sentence, span
from nbgpu.results.pods import Said
from nbgpu.runs import ENDED, Run, badge_html, pieces
from nbgpu.verbs.call import Call, Context, part

if TYPE_CHECKING:
    from nbgpu_backend.schema.pods import Output, Pod

    from nbgpu.client import Client

ITS_WORD_S = 10.0  # how long an interrupt waits for what the kernel says to it
LOOK_S = 0.05
UP = ("idle", "busy")


def run(
    context: Context,
    name: str,
    text: str | Sequence[str] | None,
    *,
    code: str | None,
    send: Sequence[str] | Mapping[str, Any] | None,
    get: Sequence[str] | None,
    background: bool,
    label: str | None,
) -> Run:
    """The run, shown as it went; with `background` at once. Raises RunFailed, Interrupted."""
    client = context.client
    program = _program(text, code, context.face)
    values = parcels.values(send, context.face)
    pod = up(client, name)
    if is_own(pod) and not background:
        raise errors.UsageProblem(
            f"This is the kernel of {pod.name}: the cell would wait for itself.",
            "Leave the first line out, and it runs there.",
        )
    if background and get:
        raise errors.UsageProblem("--get is for what has ended.", "Leave out --background.")
    if values:
        parcels.send(client, name, values)
    if program.before:
        start(client, pod, program.before, label=f"arguments of {program.label}", history=False)
    made = start(client, pod, program.code, label=label or program.label)
    if background:
        return made
    follow(
        client, made, runoutput.screen(client.face, aside=not client.aloud and client.face == "cli")
    )
    made.check()
    for wanted in get or []:
        parcels.fetch(client, name, wanted)
    return made


class Program:
    """What is to run. `before` sets what a script finds in sys.argv."""

    def __init__(self, code: str, label: str = "", before: str = "") -> None:
        self.code = code
        self.label = label
        self.before = before


def _program(text: str | Sequence[str] | None, code: str | None, face: str) -> Program:
    """Raises UsageProblem where there is none, or two."""
    words_ = [text] if isinstance(text, str) else list(text or [])
    if code is not None:
        if face == "cli":  # as python -c does
            before = f"import sys; sys.argv = {['-c', *words_]!r}" if words_ else ""
            return Program(code, before=before)
        if words_:
            raise errors.UsageProblem("There are a cell and a -c.", "Leave one of them out.")
        words_ = [code]
    if not words_ or not words_[0].strip():
        raise errors.UsageProblem(
            "What shall run?",
            "Write %%gpu run NAME as the first line of a cell, and the code below it."
            if face != "cli"
            else "Write: nbgpu run NAME -c CODE, or nbgpu run NAME script.py",
        )
    if face != "cli":
        return Program(words_[0])
    script, *arguments = words_
    if script == "-":
        return Program(sys.stdin.read(), "standard input")
    try:
        source = Path(script).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise errors.UsageProblem(
            f"The script {script} cannot be read: {reason}.",
            "For a line of code write: nbgpu run NAME -c CODE",
        ) from None
    return Program(source, Path(script).name, f"import sys; sys.argv = {[script, *arguments]!r}")


def up(client: Client, name: str) -> Pod:
    """The pod, which has to run. Raises Conflict with the way to start it."""
    found: Pod = client.send(Call("GET", f"/v2/pods/{part(name)}", "Pod", about=name))
    n = found.nbgpu
    if n.state in (*UP, "unreachable"):
        return found
    then = f"Start it with: %gpu start {found.name}"
    if n.state in ("preparing", "starting"):
        then = f"Wait for it with: %gpu start {found.name}"
    raise errors.Conflict(
        sentence(f"{found.name} is {n.state}: {n.reason.text}"),
        then,
        code="pod_not_up",
        status_code=409,
    )


def is_own(pod: Pod) -> bool:
    """Is this process that pod's kernel?"""
    return live.in_notebook() and os.environ.get("NBGPU_POD") in (pod.name, pod.id)


def start(client: Client, pod: Pod, code: str, *, label: str, history: bool = True) -> Run:
    """Give it to the kernel. The id makes that safe to say twice."""
    body = {
        "code": code, "id": f"run-{uuid.uuid4().hex[:12]}", "label": label[:200],
        "storeHistory": history,
    }  # fmt: skip
    path = f"/nbgpu/v1/pods/{part(pod.name)}/runs"
    data = client.send(Call("POST", path, "Run", body, again=True, about=pod.name))
    n = pod.nbgpu
    return Run(client, pod.name, data, place=n.place.on, rate=n.rate_per_hour)


def follow(client: Client, run: Run, screen: runoutput.Screen, *, own: bool = True) -> None:
    """Show a run until its end, with a badge below it.

    With `own` an interrupt goes on to the pod's kernel, otherwise it ends the looking only.
    """
    line, began = live.line(), time.monotonic()
    try:
        for item in pieces(client, run.pod, run.id, run.last):
            _show(client, run, item, screen)
    except KeyboardInterrupt:
        line.end("")
        if not own:
            said = f"interrupted; it goes on in {run.pod}. Follow it with: %gpu attach {run.pod}"
            raise errors.Interrupted(said) from None
        _interrupt(client, run, screen, began)
    _badge(client, run)
    run.shown = True


def _show(client: Client, run: Run, item: Output, screen: runoutput.Screen) -> None:
    run.take(item)
    if item.type == "input_request":
        _answer(client, run, item.content)
    elif item.type == "gap":
        screen.note(runoutput.gap(item.content))
    elif item.type == "kernel":
        if text := item.content.get("text"):
            screen.note(f"[{run.pod}: {text}]")
    else:
        screen.show(item)


def _answer(client: Client, run: Run, content: Mapping[str, Any]) -> None:
    """What is asked there is asked here."""
    prompt = str(content.get("prompt") or "")
    try:
        if content.get("password"):
            import getpass

            value = getpass.getpass(prompt)
        else:
            value = input(prompt)
    except Exception as error:
        # the end of the input; or a front end that takes none, whose exception is of its own kind
        try:
            run.interrupt()
            then = "it is interrupted"
        except errors.OneLine as trouble:
            then = f"it could not be interrupted: {trouble}"
        raise errors.RunFailed(
            f"in {run.pod}: it asks for input ({prompt.strip() or 'without a question'}), and nobody "
            f"can be asked here ({type(error).__name__}); {then}.",
            run=run.id, state="interrupted",
        ) from None  # fmt: skip
    path = f"/nbgpu/v1/pods/{part(run.pod)}/input"
    try:
        client.send(Call("POST", path, None, {"run": run.id, "value": value}, about=run.pod))
    except errors.Conflict:
        pass  # answered elsewhere, or no longer asked


def _interrupt(client: Client, run: Run, screen: runoutput.Screen, began: float) -> None:
    """Interrupt the kernel there and wait for its word. Always raises Interrupted, or RunFailed."""
    pod = run.pod
    try:
        if run.state == "queued":
            raise errors.Interrupted(
                f"interrupted; this still waits in {pod} behind what runs there, and will run after it. "
                f"See that with: %gpu attach {pod}"
            )
        if run.data.state not in ENDED:
            run.interrupt()
        end = time.monotonic() + ITS_WORD_S
        while run.data.state not in ENDED and time.monotonic() < end:
            for item in pieces(client, pod, run.id, run.last, follow=False):
                _show(client, run, item, screen)
            time.sleep(LOOK_S)
    except KeyboardInterrupt as again:
        if isinstance(again, errors.Interrupted):
            raise
        raise errors.Interrupted(
            f"interrupted; {pod} was told, and has not stopped yet. See %gpu attach {pod}, "
            f"or end it with: %gpu stop {pod}"
        ) from None
    except errors.OneLine as error:
        raise errors.Interrupted(f"interrupted; {pod} could not be told: {error}") from None
    if run.data.state not in ENDED:
        raise errors.Interrupted(
            f"interrupted; {pod} was told, and goes on all the same. Follow it with: %gpu attach {pod}"
        )
    _badge(client, run)
    if run.data.state == "ok":
        raise errors.Interrupted(f"interrupted; it had ended in {pod} by then.")
    took = span(run.seconds if run.seconds is not None else time.monotonic() - began)
    raise errors.Interrupted(f"interrupted; it is stopped in {pod}, after {took}.")


def _badge(client: Client, run: Run) -> None:
    badge = run.badge()
    if not client.aloud and client.face != "sdk":
        return
    if live.in_notebook() or (client.face == "magic" and live.shell() is not None):
        from IPython.display import display

        sys.stdout.flush()
        sys.stderr.flush()
        display({"text/plain": f"[{badge}]", "text/html": badge_html(badge)}, raw=True)
    elif client.aloud:
        print(badge, file=sys.stderr, flush=True)


# attach


def attach(context: Context, name: str, *, everything: bool) -> object:
    """Replay what runs, or ran last, then follow it to its end."""
    client = context.client
    path = f"/nbgpu/v1/pods/{part(name)}/runs"
    runs = client.send(Call("GET", path, "RunList", about=name)).runs
    if not runs:
        return Said(
            f"Nothing has run in {name} yet. Run a cell in it with: %%gpu run {name}", runs=0
        )
    pod: Pod = client.send(Call("GET", f"/v2/pods/{part(name)}", "Pod", about=name))
    if is_own(pod):
        raise errors.UsageProblem(
            f"This is the kernel of {pod.name}: it would wait for itself.",
            f"Follow it from elsewhere: nbgpu attach {pod.name}",
        )
    n = pod.nbgpu
    # the one that runs, with others queued behind it; else the last
    data = next((run for run in runs if run.state == "running"), runs[-1])
    shown = Run(client, pod.name, data, place=n.place.on, rate=n.rate_per_hour)
    screen = runoutput.screen(client.face, aside=not client.aloud and client.face == "cli")
    since = 0
    if everything:
        for item in pieces(client, pod.name, None, 0, follow=False):
            since = item.n
            if item.run == data.id:
                shown.take(item)
            if item.type == "execute_input":
                screen.note(_head(item.run, str(item.content.get("code", ""))))
            elif item.type == "gap":
                screen.note(runoutput.gap(item.content))
            elif item.type not in ("input_request", "run_started", "run_ended", "kernel"):
                screen.show(item)
    else:
        by = "" if data.by == "run" else ", from a notebook"
        about = f" {data.label!r}" if data.label else ""
        screen.note(
            f"[{data.id}{about}, asked for at {words.clock(data.asked_us)}{by}: {data.state}]"
        )
        since = _replay(client, shown, screen)
    if shown.data.state in ENDED and shown.seconds is not None:
        _badge(client, shown)
        shown.shown = True
        return shown
    if since and shown.items and shown.items[-1].type == "input_request":
        _answer(client, shown, shown.items[-1].content)
    follow(client, shown, screen, own=False)
    return shown


def _replay(client: Client, run: Run, screen: runoutput.Screen) -> int:
    """What it has put out so far; what was asked for in between has been answered. The last number."""
    last = 0
    for item in pieces(client, run.pod, run.id, 0, follow=False):
        last = item.n
        run.take(item)
        if item.type == "execute_input":
            code = str(item.content.get("code", ""))
            screen.note("\n".join(f"> {line}" for line in code.splitlines()[:20]))
        elif item.type == "gap":
            screen.note(runoutput.gap(item.content))
        elif item.type not in ("input_request", "run_started", "run_ended", "kernel"):
            screen.show(item)
    return last


def _head(run: str, code: str) -> str:
    lines = code.strip().splitlines() or [""]
    more = f"  (and {len(lines) - 1} more lines)" if len(lines) > 1 else ""
    return f"[{run}] > {lines[0]}{more}"
