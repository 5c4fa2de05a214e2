"""Verbs about one endpoint; those of its life are about a pod as well."""

from __future__ import annotations

import re
from typing import Annotated, Any

from nbgpu.errors import UsageProblem
from nbgpu.submission import is_job
from nbgpu.verbs import knobs
from nbgpu.verbs.call import Call, part, verb
from nbgpu.verbs.spec import Arg

Name = Annotated[str, Arg("the endpoint", metavar="NAME", complete="endpoint")]
Resource = Annotated[str, Arg("the pod or endpoint", metavar="NAME", complete="resource")]
Thing = Annotated[
    str, Arg("the pod or endpoint, or the id of a job", metavar="NAME", complete="thing")
]
Subject = Annotated[
    str,
    Arg("the pod or endpoint, or the id of a worker, a request or a job", metavar="NAME", complete="thing"),
]  # fmt: skip
SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD")


# names that say nothing about what a program does; that of its folder may
COMMON = ("handler", "rp_handler", "main", "app", "worker", "src", "", ".", "..", "~")


def name_of(model: str) -> str:
    """A name for an endpoint, from the model's: `Qwen/Qwen2.5-0.5B` gives `qwen2-5-0-5b`.

    A handler's is its file's, `mood.py` gives `mood`, or its folder's: so does `mood/handler.py`.
    """
    parts = re.split(r"[/:]", model.rstrip("/"))
    last = parts[-1]
    if is_program(model):
        last = last.removesuffix(".py")
        if last in COMMON and len(parts) > 1 and parts[-2] not in COMMON:
            last = parts[-2]
    return re.sub(r"[^a-z0-9]+", "-", last.lower())[:63].strip("-") or "endpoint"


@verb(
    "deploy Qwen/Qwen2.5-0.5B-Instruct --name chat",
    "deploy ./model --name chat --workers 2 --idle 5m --max-model-len 2048",
    "deploy mood/handler.py --name mood",
    "deploy --name llama --engine command -- llama-server -m model.gguf --port {port}",
    "deploy --lb --name site -- python app.py --port {port}",
    overview=3,
)
def deploy(
    model: Annotated[
        str | None,
        Arg(
            "a model of the Hugging Face hub, a folder with one, or a handler: a .py file that "
            "calls runpod.serverless.start",
            metavar="MODEL",
            complete="model",
        ),
    ] = None,
    *,
    name: Annotated[str | None, Arg("what to call it; by default from the model's name")] = None,
    on: Annotated[
        str | None,
        Arg(
            "where its workers run: local, a host, several in order, or any; by default where `use` says",
            metavar="WHERE,…",
            complete="place",
        ),
    ] = None,
    gpu: Annotated[list[str] | None, Arg("GPUs that will do, in order", metavar="GPU,…")] = None,
    cpu: Annotated[int | None, Arg("no GPU: this many processors a worker", metavar="N")] = None,
    workers: Annotated[
        int | None, Arg("at most this many workers; by default 1", metavar="N")
    ] = None,
    always_on: Annotated[int, Arg("keep this many running, asked or not", metavar="N")] = 0,
    idle: Annotated[
        int, Arg("a worker stops after so long without work", metavar="TIME", kind="duration")
    ] = 60,
    delay: Annotated[
        float | None,
        Arg("add a worker once a request has waited so long; by default 4s",
            metavar="TIME", kind="fine"),
    ] = None,
    per_worker: Annotated[
        int | None,
        Arg("instead: as many workers as give each so many requests", metavar="N"),
    ] = None,
    tiers: Annotated[
        list[str] | None,
        Arg("how a worker may start sooner than plainly: forked from a process that has imported the "
            "engine, woken where an idle one was parked, or none; by default both",
            metavar="parked,preimported|none", complete="tiers"),
    ] = None,
    park: Annotated[
        int | None,
        Arg("an idle engine is kept parked for so long; 0 for never; by default as its engine has it",
            metavar="TIME", kind="duration"),
    ] = None,
    env: Annotated[dict[str, str] | None, Arg("a variable for the engine", metavar="K=V")] = None,
    engine: Annotated[
        str,
        Arg(
            "what serves it; a .py file is a handler anyway",
            metavar="ENGINE",
            complete="engine",
            choices=("vllm", "handler", "command"),
        ),
    ] = "vllm",
    lb: Annotated[
        bool,
        Arg("a load balancer: the command after -- is any HTTP server, reached at /lb/NAME/; its port "
            "is {port} or the variable PORT, and it answers 200 on /ping, or on HEALTH_CHECK_PATH"),
    ] = False,
    take: Annotated[bool, Arg("change it even if another notebook made it")] = False,
    engine_options: Annotated[
        list[str] | None,
        Arg("options of the engine, as it knows them", metavar="-- …", kind="rest"),
    ] = None,
) -> Call:  # fmt: skip
    """Serve a model, the jobs of a handler or any HTTP server: workers start when asked, stop when idle.

    Running it again is normal: the same settings find the endpoint as it is, changed settings roll it.
    Options that are not listed here go to the engine; after `--` all of them do.
    """
    from nbgpu_backend.schema.endpoints import CreateEndpoint

    if lb:
        engine = _balanced(model, engine, delay, engine_options)
    if model is not None and engine == "vllm" and is_program(model):
        engine = "handler"
    if model is None and engine == "handler":
        raise UsageProblem(
            "Which file?", "Write it first, as in: deploy handler.py --name jobs --engine handler"
        )
    if model is None and engine != "command":
        raise UsageProblem(
            "Which model?", "Write it first, as in: deploy Qwen/Qwen2.5-0.5B-Instruct --name chat"
        )
    if model is None and name is None:
        raise UsageProblem("A command needs a name.", "Add --name NAME.")
    if gpu and cpu is not None:
        raise UsageProblem("--gpu and --cpu exclude each other.", "Leave one of them out.")
    check_env(env or {})
    called = name or name_of(model or "")
    most = workers if workers is not None else max(1, always_on)
    body: dict[str, Any] = {
        "name": called,
        "workers": knobs.limits(most, always_on, idle),
        "env": env or {},
        **({"type": "LOAD_BALANCER"} if lb else {}),
        "nbgpu": {
            "model": model,
            "engine": {"name": engine, "options": list(engine_options or [])},
            "place": {"cpu": cpu, "gpu": gpu or [], **({"on": on} if on is not None else {})},
            "converge": True,
            "take": take,
        },
    }
    if policy := knobs.scaling(delay, per_worker):
        body["scaling"] = policy
    if policy := knobs.starts(tiers, park):
        body["nbgpu"]["policy"] = policy
    checked = CreateEndpoint.model_validate(body).model_dump(
        mode="json", by_alias=True, exclude_unset=True
    )
    return Call("POST", "/v2/serverless", "Endpoint", checked, again=True, stamp=True,
                follow="deploy", view="endpoint", about=called)  # fmt: skip


def _balanced(
    model: str | None, engine: str, delay: float | None, command: list[str] | None
) -> str:
    """The engine of a load balancer. Raises UsageProblem."""
    if engine not in ("vllm", "command"):  # vllm is what is there when nothing was said
        raise UsageProblem("A load balancer is a command.", "Leave --engine out.")
    if model is not None or not command:
        raise UsageProblem(
            "A load balancer is a command.",
            "Write it last: deploy --lb --name site -- python app.py",
        )
    if delay is not None:
        raise UsageProblem(
            "A load balancer scales by requests, not by a delay.",
            "Say --per-worker N instead of --delay.",
        )
    return "command"


def is_program(model: str) -> bool:
    return model.endswith(".py")


def check_env(env: dict[str, str]) -> None:
    """Refuse what looks like a secret: it would end in the notebook and in the store."""
    for name in env:
        if any(word in name.upper() for word in SECRET):
            raise UsageProblem(
                f"{name} looks like a secret, and --env would store it readable.",
                f"For a pod, store it with: %gpu secret add {name}, and write --secret {name}. For an "
                f"endpoint, set it for the backend: nbgpu shutdown, then {name}=… nbgpu serve",
            )


@verb("show chat")
def show(name: Thing) -> Call:
    """One pod or endpoint in full (state, settings, limits, cost), or one job with its timeline."""
    if is_job(name):
        return Call("GET", f"/nbgpu/v1/jobs/{part(name)}", "JobDetail", follow="show_job",
                    view="job", about=name)  # fmt: skip
    return Call("GET", f"/v2/serverless/{part(name)}", "Endpoint", view="endpoint", about=name,
                pod=Call("GET", f"/v2/pods/{part(name)}", "Pod", view="pod", about=name))  # fmt: skip


@verb("why chat", "why w-5f0c2a9be1", overview=5)
def why(name: Subject) -> Call:
    """Why it is in its state, since when, at what cost, and what to do.

    Of a pod, an endpoint, a worker, a request that waits or was answered, or a job.
    """
    if is_job(name):
        return Call("GET", f"/nbgpu/v1/jobs/{part(name)}", "JobDetail", follow="why_job",
                    view="job_why", about=name)  # fmt: skip
    return Call("GET", f"/nbgpu/v1/why/{part(name)}", "Why", view="why", about=name)


@verb("logs chat", "logs chat --tail 20", "logs chat --follow")
def logs(
    name: Resource,
    *,
    tail: Annotated[int, Arg("how many lines", metavar="N", short="-n")] = 100,
    follow: Annotated[bool, Arg("go on until it ends", short="-f")] = False,
) -> Call:
    """The last lines of a pod's log, or of an endpoint's newest worker's, also of one that has ended."""
    if follow:
        return Call("GET", f"/nbgpu/v1/logs/{part(name)}", params={"tail": tail, "follow": "true"},
                    streamed=True, follow="logs", view="logs", about=name)  # fmt: skip
    return Call("GET", f"/nbgpu/v1/logs/{part(name)}", "LogLines", params={"tail": tail},
                view="logs", about=name)  # fmt: skip


@verb("events", "events chat --limit 100")
def events(
    name: Annotated[
        str | None,
        Arg("the pod or endpoint; all of them if left out", metavar="NAME", complete="resource"),
    ] = None,
    *,
    limit: Annotated[int, Arg("at most so many, the newest", metavar="N", short="-n")] = 50,
) -> Call:  # fmt: skip
    """What happened and why, the newest last: what started or ended, what was changed."""
    params: dict[str, str | int | list[str]] = {"limit": knobs.count("--limit", limit, 1, 1000)}
    if name is not None:
        params["endpoint"] = name
    return Call("GET", "/nbgpu/v1/history", "EventList", params=params, view="events",
                about=name or "")  # fmt: skip


@verb("stop chat", "stop --all", overview=7)
def stop(
    name: Annotated[
        str | None, Arg("the pod or endpoint", metavar="NAME", complete="resource")
    ] = None,
    *,
    all: Annotated[bool, Arg("every pod and endpoint that there is")] = False,
    yes: Annotated[bool, Arg("with --all: do not ask", short="-y")] = False,
) -> Call:
    """End what runs, until it is started again: a pod keeps its /workspace, an endpoint its settings."""
    if all:
        if name is not None:
            raise UsageProblem(f"--all stops {name} and all others.", f"Leave out --all or {name}.")
        follow = "stop_all" if yes else "stop_all_asking"
        return Call(
            "POST", "/nbgpu/v1/stop-all", "json", {}, again=True, follow=follow, view="stopped"
        )
    if name is None:
        raise UsageProblem("Stop what?", "Write its name, or --all for everything that runs.")
    return _act(name, "stop")


@verb("start chat")
def start(name: Resource) -> Call:
    """Run again after a stop or a failure."""
    return _act(name, "start")


def _act(name: str, action: str) -> Call:
    """The same body for both kinds; they answer each in its way."""
    body, follow = {"action": action}, "stop" if action == "stop" else ""
    return Call(
        "POST", f"/v2/serverless/{part(name)}/action", "Endpoint", body, again=True, follow=follow,
        view="endpoint", about=name,
        pod=Call("POST", f"/v2/pods/{part(name)}/action", "Pod", body, again=True,
                 follow=f"{action}_pod", view="pod", about=name),
    )  # fmt: skip


@verb("delete chat", "delete train --keep-volume --yes", overview=8)
def delete(
    name: Resource,
    *,
    yes: Annotated[bool, Arg("do not ask", short="-y")] = False,
    keep_volume: Annotated[bool, Arg("keep what a pod has in /workspace")] = False,
) -> Call:
    """Stop a pod or an endpoint and forget it; what it cost stays on record.

    With a pod go its home, its installed packages and its own /workspace, which is told before.
    """
    params: dict[str, str | int | list[str]] = {"keepVolume": "true"} if keep_volume else {}
    return Call(
        "DELETE", f"/v2/serverless/{part(name)}", follow="delete", view="deleted", about=name,
        pod=Call("DELETE", f"/v2/pods/{part(name)}", params=params, about=name, view="deleted",
                 follow="delete_pod" if yes else "delete_pod_asking"),
    )  # fmt: skip
