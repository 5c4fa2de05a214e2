"""A streamed answer: lines of server-sent events into pieces of text and progress.

Comments `: nbgpu {…}` tell what is waited for, `: nbgpu-done {…}` how it went; `data:` lines are OpenAI's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from nbgpu import errors
from nbgpu.formats import dollars, span
from nbgpu.results.answer import Answer

WAIT = ": nbgpu "
DONE = ": nbgpu-done "


@dataclass(frozen=True, slots=True)
class Progress:
    """What is waited for; `values`: state, text, phase, elapsed_s, typical_s, cost."""

    values: dict[str, Any]

    def share(self) -> float | None:
        """How much of the wait is over, if it takes what it typically takes; never all of it."""
        elapsed, typical = self.values.get("elapsed_s"), self.values.get("typical_s")
        if self.values.get("phase") is None or elapsed is None or not typical:
            return None
        return min(0.95, float(elapsed) / float(typical))

    def line(self, endpoint: str) -> str:
        v = self.values
        text = str(v.get("text") or v.get("state") or "waiting")
        parts = [f"{endpoint}: {untimed(text)}"]
        phase = v.get("phase")
        if phase and phase not in parts[0]:
            parts[0] += f" ({phase})"
        if (elapsed := v.get("elapsed_s")) is not None:
            typical = v.get("typical_s")
            parts.append(span(elapsed) + (f" of typically {span(typical)}" if typical else ""))
        if v.get("cost") is not None:
            parts.append(f"{dollars(v['cost'])} so far")
        parts.append("interrupt to cancel")
        return " · ".join(parts)


def untimed(text: str) -> str:
    """For a line that counts by itself: "starting (3 s, usually 21 s)" would say it twice."""
    return re.sub(r"\s*\([^()]*\d s\b[^()]*\)$", "", text)


def read(lines: Iterable[str], answer: Answer) -> Iterator[Progress | str]:
    """Pieces and progress as they come; `answer` is filled in meanwhile.

    Raises EngineFailed for an error in the stream, and if it ends before the answer has.
    """
    finished = False
    for line in lines:
        if line.startswith(DONE):
            answer.timings = json.loads(line.removeprefix(DONE))
            finished = True
        elif line.startswith(WAIT):
            yield Progress(json.loads(line.removeprefix(WAIT)))
        elif line.startswith("data:"):
            data = line[5:].strip()
            if data == "[DONE]":
                finished = True
                continue
            piece = _chunk(json.loads(data), answer)
            if piece:
                yield piece
    if not finished:
        failure = errors.EngineFailed(
            f"The answer of {answer.endpoint} broke off.",
            f"See why with: %gpu why {answer.endpoint}",
            code="broke_off",
        )
        failure.text = answer.said
        raise failure
    answer.done = True


def _chunk(chunk: dict[str, Any], answer: Answer) -> str:
    if isinstance(chunk.get("error"), dict):
        from nbgpu.wire import engine_error

        failure = engine_error(chunk["error"])
        failure.text = answer.said
        raise failure
    answer.model = chunk.get("model") or answer.model
    answer.usage = chunk.get("usage") or answer.usage
    for choice in chunk.get("choices") or []:
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
        piece = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
        answer.said += piece
        return str(piece)
    return ""
