"""One pod, as it was when it was asked for."""

from __future__ import annotations

import time
from html import escape
from typing import TYPE_CHECKING, Any

from nbgpu import words
from nbgpu.formats import dollars, per_hour, plural, size, span
from nbgpu.results.shape import (
    MARKS,
    Markup,
    Rich,
    frame,
    html_facts,
    html_line,
    mark_html,
    text_facts,
)  # fmt: skip

if TYPE_CHECKING:
    import pandas
    from nbgpu_backend.schema.pods import Pod as Data

UP = ("idle", "busy")


def value_text(field: str, value: Any) -> str:
    """A value of a setting, in words: `30 min`, `14:05`, `2 GB`, `none`."""
    if value is None:
        return "never" if field.endswith(("idleStopS", "untilUs")) else "none"
    if field.endswith("Us"):
        return words.clock(int(value))
    if field.endswith("Bytes"):
        return size(int(value))
    if field.endswith("S") and isinstance(value, int | float):
        return words.seconds(value)
    if isinstance(value, dict):
        return ", ".join(f"{k} {value_text(k, v)}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return str(value)


class PodView(Rich):
    """`.data` is the answer itself (`nbgpu_backend.schema.pods.Pod`)."""

    def __init__(self, data: Data) -> None:
        self.data = data

    @property
    def name(self) -> str:
        return self.data.name

    @property
    def state(self) -> str:
        return self.data.nbgpu.state

    @property
    def workspace(self) -> str:
        """The folder of this machine that is /workspace in it."""
        return self.data.nbgpu.workspace

    @property
    def df(self) -> pandas.DataFrame:
        """One row: what it is set to and uses; the rate and the cost in dollars."""
        n = self.data.nbgpu
        row = {
            "name": self.name, "state": n.state, "reason": n.reason.text, "on": n.place.on,
            "kernel": n.kernel.state if n.kernel else "none", "memory_bytes": n.use.memory_bytes,
            "cpu": n.use.cpu, "processes": n.use.processes,
            "rate_per_hour": float(n.rate_per_hour), "cost": float(n.cost_so_far),
            "workspace": n.workspace, "id": self.data.id,
        }  # fmt: skip
        return frame([row], list(row))

    def _runs_on(self) -> str:
        data, n = self.data, self.data.nbgpu
        found = n.place.on
        if data.gpu is not None:
            found += f", {data.gpu.count} × GPU {data.gpu.id}"
        elif data.cpu is not None:
            found += f", {data.cpu.vcpu_count} CPU"
        return found

    def _ends(self) -> str:
        """When it ends by itself, and why then."""
        n = self.data.nbgpu
        if n.stops_at_us is not None and n.state in UP:
            left = max(0.0, n.stops_at_us / 1e6 - time.time())
            why = f": {words.ends_why(n.stops_why)}" if n.stops_why else ""
            return f"at {words.clock(n.stops_at_us)}, in {span(left)}{why}"
        limits = n.limits
        parts = []
        if limits.idle_stop_s is not None:
            parts.append(f"after {span(limits.idle_stop_s)} without use")
        if limits.until_us is not None:
            parts.append(f"at {words.clock(limits.until_us)}")
        if limits.max_cost is not None:
            parts.append(f"when it has cost {dollars(limits.max_cost)}")
        return ", or ".join(parts) if parts else "only when it is stopped"

    def _kernel(self) -> str:
        n = self.data.nbgpu
        if n.kernel is None or n.kernel.state == "none":
            return "none yet: the first cell starts it"
        found: str = n.kernel.state
        if n.run is not None:
            about = f" {n.run.label!r}" if n.run.label else ""
            found += f"; last run {n.run.id}{about}: {n.run.state}"
        return found

    def _facts(self) -> list[tuple[str, object]]:
        data, n = self.data, self.data.nbgpu
        use = n.use
        facts: list[tuple[str, object]] = [
            ("runs on", self._runs_on()),
            ("apart by", n.isolation_text or "nothing yet: it is not running"),
            *([("network", "none")] if n.network == "none" else []),
            ("kernel", self._kernel()),
            ("/workspace", f"{n.volume_name + ': ' if n.volume_name else ''}{n.workspace}"),
            ("ends by itself", self._ends()),
            ("cost", f"{dollars(n.cost_so_far)} so far, {per_hour(n.rate_per_hour)} while it runs "
                     f"({n.rate_source})"),
        ]  # fmt: skip
        if n.state in UP:
            limit = f" of {size(use.memory_limit)}" if use.memory_limit else ""
            parts = [f"{size(use.memory_bytes)}{limit}", f"{use.cpu:.0%} of a processor",
                     plural(use.processes, "process").replace("processs", "processes")]  # fmt: skip
            parts += [plural(use.terminals, "terminal")] if use.terminals else []
            facts.append(("uses", ", ".join(parts)))
        if data.image:
            facts.append(("image", data.image))
        if n.requirements:
            facts.append(("requirements", ", ".join(n.requirements)))
        if n.secrets:
            facts.append(("secrets", ", ".join(n.secrets)))
        if data.ports:
            facts.append(("ports", ", ".join(data.ports)))
        if n.before_stop:
            facts.append(("before it stops", n.before_stop))
        facts += [(f"not on {skip.what}", skip.text) for skip in n.skipped]
        if n.state in UP:
            facts.append(("next", f"%%gpu run {self.name}    %gpu kernel {self.name}    "
                                  f"%gpu stop {self.name}"))  # fmt: skip
        elif n.state in ("stopped", "failed"):
            facts.append(("next", f"%gpu start {self.name}    %gpu delete {self.name}"))
        return facts

    def _head(self) -> str:
        n = self.data.nbgpu
        return f"is {n.state}" + (f": {n.reason.text}" if n.reason.text else "")

    def text(self) -> str:
        n = self.data.nbgpu
        lines = [f"{MARKS.get(n.state, '·')} {self.name} {self._head()}", text_facts(self._facts())]
        if n.state == "failed" and n.tail:
            lines += ["last log lines:", *(f"  {line}" for line in n.tail)]
        return "\n".join(lines)

    def html(self) -> str:
        from nbgpu.results.shape import html_pre

        n = self.data.nbgpu
        head = Markup(f"{mark_html(n.state)} <b>{escape(self.name)}</b> {escape(self._head())}")
        parts = [html_line(head), html_facts(self._facts())]
        if n.state == "failed" and n.tail:
            parts += [html_line("last log lines:", faint=True), html_pre("\n".join(n.tail))]
        return "".join(parts)

    def to_dict(self) -> dict[str, Any]:
        return self.data.wire()
