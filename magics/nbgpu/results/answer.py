"""What a model said, how long it took and what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nbgpu.formats import dollars, plural, span
from nbgpu.results.shape import Rich, frame, html_line, html_pre

if TYPE_CHECKING:
    import pandas


@dataclass(eq=False, repr=False)
class Answer(Rich):
    """`str(answer)` is the text. Times are milliseconds; `timings` is the backend's record of the request:
    id, queue_ms, cold, start_ms, phases, first_byte_ms, total_ms, tokens_in, tokens_out, cost, worker."""

    endpoint: str
    said: str = ""
    model: str = ""
    finish_reason: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, Any] = field(default_factory=dict)
    done: bool = False
    shown: bool = False  # it was shown as it came

    def __str__(self) -> str:
        return self.said

    @property
    def tokens(self) -> int | None:
        found = self.timings.get("tokens_out") or self.usage.get("completion_tokens")
        return int(found) if found is not None else None

    @property
    def tokens_per_s(self) -> float | None:
        """Of the generation after the first token."""
        first, total = self.timings.get("first_byte_ms"), self.timings.get("total_ms")
        if first is None or total is None or not self.tokens or self.tokens < 2 or total <= first:
            return None
        return float((self.tokens - 1) / (total - first) * 1000)

    @property
    def cost(self) -> str | None:
        """Dollars, as decimal text."""
        found = self.timings.get("cost")
        return None if found is None else str(found)

    def badge(self) -> str:
        """`answered in 21.4 s: 20.9 s cold start, first token 0.4 s · 35 tokens, 48 tokens/s · $0.0003`."""
        t = self.timings
        if not t:
            return "" if not self.done else f"answered by {self.endpoint}"
        queue, start = t.get("queue_ms") or 0.0, t.get("start_ms") or 0.0
        parts = []
        if t.get("cold"):
            parts.append(f"{span(start / 1000)} cold start")
        if queue - start > 100:
            parts.append(f"{span((queue - start) / 1000)} in the queue")
        if t.get("first_byte_ms") is not None:
            parts.append(f"first token {span(max(t['first_byte_ms'] - queue, 0) / 1000)}")
        if not t.get("cold"):
            parts.append("warm")
        found = []
        if t.get("total_ms") is not None:
            found.append(f"answered in {span(t['total_ms'] / 1000)}: " + ", ".join(parts))
        if self.tokens:
            speed = f", {self.tokens_per_s:.0f} tokens/s" if self.tokens_per_s else ""
            found.append(plural(self.tokens, "token") + speed)
        if self.cost is not None:
            found.append(dollars(self.cost))
        if self.finish_reason == "length":
            found.append("cut at the longest answer (--max-tokens)")
        return " · ".join(found)

    def text(self) -> str:
        badge = self.badge()
        return self.said + (f"\n[{badge}]" if badge else "")

    def html(self) -> str:
        badge = self.badge()
        body = html_pre(self.said)
        small = f'<div style="font-size:85%">{html_line(badge, faint=True)}</div>' if badge else ""
        return body + small

    @property
    def df(self) -> pandas.DataFrame:
        """One row: the times, tokens and cost of the request."""
        row = {key: value for key, value in self.timings.items() if key != "phases"}
        return frame([row], list(row))

    def to_dict(self) -> dict[str, Any]:
        return {"endpoint": self.endpoint, "text": self.said, "model": self.model,
                "finish_reason": self.finish_reason, "usage": self.usage,
                "timings": self.timings}  # fmt: skip
