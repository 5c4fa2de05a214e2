"""Asking a model."""

from __future__ import annotations

from typing import Annotated, Any

from nbgpu.errors import UsageProblem
from nbgpu.verbs.call import Call, part, verb
from nbgpu.verbs.endpoints import Name
from nbgpu.verbs.spec import Arg


@verb("ask chat", "ask chat --system 'Answer in one sentence.' -o answer", overview=4)
def ask(
    name: Name,
    text: Annotated[str, Arg("what to ask; - reads standard input", metavar="TEXT", kind="cell")],
    *,
    system: Annotated[str | None, Arg("what the model is told before", metavar="TEXT")] = None,
    max_tokens: Annotated[int | None, Arg("the longest answer", metavar="N")] = None,
    temperature: Annotated[float | None, Arg("0 is the most likely answer", metavar="T")] = None,
    raw: Annotated[
        bool, Arg("continue the text as it stands, for models that know no chat")
    ] = False,
) -> Call:
    """Ask a model and stream the answer; a worker starts if none runs.

    In a notebook the cell is the question, taken as it stands; `{{x}}` puts in the variable x.
    """
    if not text.strip():
        raise UsageProblem("There is nothing to ask.", "Write the question.")
    if raw and system is not None:
        raise UsageProblem("--raw has no system message.", "Put it into the text.")
    limits: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature}
    body: dict[str, Any] = {
        "model": name,
        "stream": True,
        "stream_options": {"include_usage": True},
        **{key: value for key, value in limits.items() if value is not None},
    }
    if raw:
        body["prompt"] = text
    else:
        before = [{"role": "system", "content": system}] if system is not None else []
        body["messages"] = [*before, {"role": "user", "content": text}]
    path = f"/v2/{part(name)}/openai/v1/" + ("completions" if raw else "chat/completions")
    return Call("POST", path, body=body, streamed=True, follow="ask", about=name)
