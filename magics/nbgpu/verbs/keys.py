"""Keys of an endpoint."""

from __future__ import annotations

from typing import Annotated, Any

from nbgpu.errors import UsageProblem, closest
from nbgpu.verbs import knobs
from nbgpu.verbs.call import Call, part, verb
from nbgpu.verbs.spec import Arg

ACTIONS = ("ls", "add", "rm")
MOST_PER_MINUTE, MOST_AT_ONCE = 1_000_000, 100_000


@verb(
    "key add chat --label app --per-minute 60 --at-once 4",
    "key ls chat",
    "key rm key-5f0c2a9be1",
)
def key(
    action: Annotated[
        str, Arg("ls, add or rm", metavar="ls|add|rm", choices=ACTIONS, complete="key_action")
    ] = "ls",
    name: Annotated[
        str | None,
        Arg("the endpoint; for rm the id of the key", metavar="NAME|ID", complete="endpoint"),
    ] = None,
    *,
    label: Annotated[str | None, Arg("what it is for", metavar="TEXT")] = None,
    per_minute: Annotated[
        int | None,
        Arg("so many requests and jobs a minute, evenly after a first burst of as many; no limit unless given",
            metavar="N"),
    ] = None,
    at_once: Annotated[
        int | None,
        Arg("so many requests and jobs in progress or waiting; no limit unless given", metavar="N"),
    ] = None,
) -> Call:  # fmt: skip
    """Make a key that opens one endpoint and nothing else, list keys and what came with them, or revoke one.

    The key itself is shown once, when it is made. It opens the endpoint's OpenAI routes and its job API; what
    goes beyond its limits is refused with 429. Asking for models, status and results counts to no limit.
    A revoked key opens nothing from that moment on; what it has in progress goes on.
    """
    if action not in ACTIONS:
        raise UsageProblem(
            f"A key cannot {action}.{closest(action, ACTIONS)}", "There are: ls, add, rm."
        )
    if action != "add" and (label, per_minute, at_once) != (None, None, None):
        raise UsageProblem(
            "--label, --per-minute and --at-once are for a new key.",
            "Write: key add NAME --label TEXT",
        )
    if action == "ls":
        params: dict[str, str | int | list[str]] = {"endpoint": name} if name else {}
        return Call(
            "GET", "/nbgpu/v1/keys", "KeyList", params=params, view="keys", about=name or ""
        )
    if name is None:
        which = "For which endpoint?" if action == "add" else "Which key?"
        then = "key add chat" if action == "add" else "key rm key-5f0c2a9be1, from: key ls"
        raise UsageProblem(which, f"Write it behind, as in: {then}")
    if action == "rm":
        return Call("DELETE", f"/nbgpu/v1/keys/{part(name)}", "Key", view="revoked", about=name)
    body: dict[str, Any] = {"endpoint": name}
    if label is not None:
        body["label"] = label
    if per_minute is not None:
        body["perMinute"] = knobs.count("--per-minute", per_minute, 1, MOST_PER_MINUTE)
    if at_once is not None:
        body["atOnce"] = knobs.count("--at-once", at_once, 1, MOST_AT_ONCE)
    return Call("POST", "/nbgpu/v1/keys", "NewKey", body, view="new_key", about=name)
