"""`ep.map`: a job for each value of a list, a Series or a DataFrame.

    rows.py      values and a template to the inputs of jobs (template.py: the template's language)
    quote.py     what it will take, from the endpoint's own records
    journal.py   what is known of each row, on disk: it outlives kernels and backends
    runner.py    the jobs in flight, in one thread (link.py: the connection, which may break)
    costs.py     what they cost
    result.py    MapResult (files.py: .parquet, .csv, .jsonl)

How it moves: every row has an input and a key of it. A row whose key the journal has with an end is not run
again; one whose job is known is waited for; the others are submitted, at most `concurrency` in flight. A row's
line is in the journal before its job is submitted and after its end, so that a run that was cut off at any
instant goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbgpu import errors as problems
from nbgpu import live, submission, wire
from nbgpu.batch import files, quote
from nbgpu.batch.costs import Costs
from nbgpu.batch.journal import Journal, read, tidy
from nbgpu.batch.link import Link
from nbgpu.batch.result import MapResult
from nbgpu.batch.rows import Form, Row, Table
from nbgpu.batch.rows import rows as rows_of
from nbgpu.batch.runner import Policy, Runner, Tally
from nbgpu.formats import dollars, plural, span
from nbgpu.submission import CANCELLED, COMPLETED, Seconds
from nbgpu.verbs.call import Call, part

if TYPE_CHECKING:
    from nbgpu.client import Client
    from nbgpu.handle import Endpoint

SHOW_S = 0.2
LOOK_S = 2.0  # between two looks at what it cost
LEAVE_S = 10.0  # what is on the wire is waited for, so that no job is lost sight of
MOST = 256
LIMIT = 1.0  # dollars


def run(
    client: Client,
    endpoint: Endpoint,
    values: Any,
    template: Any = None,
    *,
    concurrency: int = 64,
    out: str | Path | None = None,
    name: str | None = None,
    yes: bool = False,
    limit: float = LIMIT,
    low_priority: bool = False,
    errors: str = "keep",
    retry_failed: bool = False,
    fresh: bool = False,
    expand: bool = False,
    execution_timeout: Seconds | None = None,
    ttl: Seconds | None = None,
    system: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    raw: bool = False,
) -> MapResult:
    """Run a job for each value and wait for all of them.

    `template` makes the input: `{{text}}` is the value of a list or Series, `{{column}}` that of a frame (or
    of values that are dicts). A text is a question to a model (`system`, `max_tokens`, `temperature` and
    `raw` are those of `ask`), and `{"prompt": text}` to a handler. Any other JSON is the input itself; in it a
    string that is exactly `{{x}}` keeps the value's type. Without a template a dict, and for a handler a
    frame's row, is the input as it stands; any other value is taken as `"{{text}}"`, or for a handler as
    `{"prompt": value}`.

    At most `concurrency` jobs are in flight; as many workers start for them as the endpoint allows, and what
    others ask of it takes turns with them. With `low_priority` they start none: they wait behind all other
    work for workers that run anyway, for ever if there are none. A quote is shown first; one above `limit`
    dollars needs `yes=True`, and without it nothing more is submitted once so much is spent.

    A row that fails has its state and error in its row; `errors="raise"` stops at the first. Running it again
    after an interruption goes on: finished rows are not run again (failed ones with `retry_failed=True`;
    all of them with `fresh=True`), submitted ones are found (or cancelled before, with `cancel_map`). What is known lies beside `out` if that is given,
    else under NBGPU_HOME/maps, by endpoint and model and inputs, or by `name`.

    `out` is a .parquet, .csv or .jsonl. Raises UsageProblem, BatchStopped, JobFailed (with errors="raise"),
    Interrupted, and what the backend refuses with.
    """
    if not 1 <= concurrency <= MOST:
        raise problems.UsageProblem(
            f"concurrency cannot be {concurrency}.", f"It goes from 1 to {MOST} jobs in flight."
        )
    if errors not in ("keep", "raise"):
        raise problems.UsageProblem(f"errors cannot be {errors!r}.", "It is 'keep' or 'raise'.")
    options: dict[str, Any] = {"execution_timeout": execution_timeout, "ttl": ttl}
    submission.body(None, **options)  # refused before anything else
    path = None if out is None else Path(out).expanduser()
    if path is not None:
        files.check(path)
    table = Table(values)
    form = Form(endpoint.data.nbgpu.engine.name, system, max_tokens, temperature, raw)
    rows = rows_of(table, template, form)
    of = fingerprint(endpoint)
    journal = Journal.open(
        _place(client, endpoint.name, of, rows, path, name), endpoint.name, of, fresh=fresh
    )
    try:
        todo = _plan(rows, journal, retry_failed=retry_failed)
        before = len(rows) - len(todo)
        batch = _Batch(client, endpoint, journal, rows, todo, limit=None if yes else limit)
        batch.say_before(before, low_priority=low_priority)
        if todo:
            batch.run(Policy(concurrency, low_priority, errors == "raise", options=options))
        found = MapResult(
            endpoint.name, table, rows, journal.entries,
            path=path, journal=journal.path, expand=expand,
        )  # fmt: skip
        if path is not None:
            files.write(found.df, path)
    finally:
        journal.close()
    return found


def fingerprint(endpoint: Endpoint) -> str:
    """Of what answers: results of another model, code or option are not taken for these."""
    n = endpoint.data.nbgpu
    parts = [n.engine.model_dump(), n.model.ref, n.model.revision, endpoint.data.env]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _place(
    client: Client, endpoint: str, of: str, rows: list[Row], out: Path | None, name: str | None
) -> Path:
    if out is not None:
        return out.with_name(out.name + ".journal")
    folder = client.home.root / "maps"
    tidy(folder)
    if name is not None:
        if not re.fullmatch(r"[\w.-]{1,80}", name) or name.startswith("."):
            raise problems.UsageProblem(
                f"{name!r} is no name for a map.", "Use letters, digits, '-', '_' and '.'."
            )
        return folder / f"{endpoint}-{name}.jsonl"
    digest = hashlib.sha256("\n".join([of, *(row.key for row in rows)]).encode()).hexdigest()
    return folder / f"{endpoint}-{digest[:16]}.jsonl"


def _plan(rows: list[Row], journal: Journal, *, retry_failed: bool) -> list[Row]:
    """The rows that have no end yet. What the journal has of another input is forgotten."""
    todo = []
    for row in rows:
        entry = journal.entries.get(row.number)
        if entry is not None and (
            entry.key != row.key or (retry_failed and entry.end not in (None, COMPLETED))
        ):
            journal.void(row.number)
            entry = None
        if entry is None or entry.end is None:
            todo.append(row)
    return todo


def cancel(client: Client, endpoint: str, of: str | Path) -> int:
    """Cancel the jobs of an interrupted map, whether they wait or run; returns how many there were.

    `of` is its `out`, its `name`, or the path of its journal. Run again, the map submits these rows anew.
    Raises UsageProblem where there is no such map, Conflict where it is under way.
    """
    path, head = _journal(client, endpoint, of)
    journal = Journal.open(path, endpoint, head["of"])
    cancelled = 0
    try:
        for number, entry in list(journal.entries.items()):
            if entry.job is None or entry.end is not None:
                continue
            call = Call(
                "POST", f"/v2/{part(endpoint)}/cancel/{part(entry.job)}", wire.JSON,
                about=endpoint, again=True,
            )  # fmt: skip
            try:
                state = client.send(call)["status"]
            except problems.NotFound as error:
                if error.code != "job_not_found":
                    raise
                continue
            if state == CANCELLED:
                journal.void(number)
                cancelled += 1
    finally:
        journal.close()
    return cancelled


def _journal(client: Client, endpoint: str, of: str | Path) -> tuple[Path, dict[str, Any]]:
    given = Path(of).expanduser()
    named = client.home.root / "maps" / f"{endpoint}-{given.name}.jsonl"
    for path in (given.parent / (given.name + ".journal"), given, named):
        head = read(path)[0] if path.is_file() else None
        if head is not None and head.get("endpoint") == endpoint:
            return path, head
    raise problems.UsageProblem(
        f"There is no map of {endpoint} called {str(of)!r}.",
        "Name its out=…, its name=…, or the journal that its interruption named.",
    )


class _Batch:
    """One run, as the thread that waits for it sees it."""

    def __init__(
        self, client: Client, endpoint: Endpoint, journal: Journal, rows: list[Row],
        todo: list[Row], *, limit: float | None,
    ) -> None:  # fmt: skip
        self.client, self.endpoint, self.name = client, endpoint, endpoint.name
        self.journal, self.rows, self.todo, self.limit = journal, rows, todo, limit
        self.costs = Costs(client, endpoint.name, journal, {row.number for row in rows})
        ended = [e for row in rows if (e := journal.entries.get(row.number)) and e.end]
        good = sum(entry.end == COMPLETED for entry in ended)
        self.tally = Tally(len(rows), done=good, failed=len(ended) - good)
        self.before = self.costs.spent
        self.began = time.monotonic()
        self.looked = float("-inf")
        self.reason = ""

    def say_before(self, done: int, *, low_priority: bool) -> None:
        """What was done before, then the quote. Raises BatchStopped where that needs a yes."""
        found = quote.ask(
            self.client, self.endpoint.data, len(self.todo), low_priority=low_priority
        )
        if done and not self.todo:
            said = f"all {plural(done, 'row')} were done before; fresh=True runs them again"
        elif done:
            said = f"{done:,} of {plural(len(self.rows), 'row')} were done before. Left: {found.text()}"
        else:
            said = found.text()
        live.line().end(f"{self.name}: {said}")
        if (
            self.limit is not None
            and found.cost is not None
            and found.cost > self.limit
            and self.todo
        ):
            raise problems.BatchStopped(
                f"This would cost about {dollars(found.cost)}, more than the limit of "
                f"{dollars(self.limit)}; nothing was submitted.",
                "Run it with yes=True, or with a higher limit=…", code="needs_yes",
            )  # fmt: skip

    def run(self, policy: Policy) -> None:
        home, backend = self.client.home, self.client.backend
        runner = Runner(
            self.name, self.todo, self.journal, policy, self.tally,
            lambda: Link(home, backend),
        )  # fmt: skip
        line = live.line()
        try:
            runner.start()
            while not runner.over:
                self._look(runner, policy)
                line.update(self._now(), (self.tally.done + self.tally.failed) / self.tally.total)
                runner.join(SHOW_S)
        except KeyboardInterrupt:
            line.end(self._now(""))
            runner.stop()
            runner.join(LEAVE_S)
            raise problems.Interrupted("interrupted; " + self._left()) from None
        except BaseException:
            runner.stop()
            runner.join(LEAVE_S)
            raise
        self.costs.look()
        line.end(self._end())
        self._check(runner, policy)

    def _look(self, runner: Runner, policy: Policy) -> None:
        """What it cost so far, every LOOK_S; stop at the limit."""
        now = time.monotonic()
        if now - self.looked < LOOK_S:
            return
        self.looked = now
        self.costs.look()
        if self.limit is not None and self.costs.spent - self.before > self.limit:
            runner.stop()
        self.reason = ""
        if not self.tally.ended_here:
            try:
                found = self.endpoint.show().data.nbgpu
                self.reason = f"{found.state}: {found.reason.text}"
                if policy.low_priority:
                    self.reason += "; these jobs have low priority and start no worker"
            except problems.OneLine:
                pass

    def _check(self, runner: Runner, policy: Policy) -> None:
        """Raises what kept it from its end."""
        if runner.trouble is not None:
            trouble = runner.trouble
            if isinstance(trouble, problems.OneLine) and not isinstance(
                trouble, problems.UsageProblem
            ):
                trouble.next_step = f"{trouble.next_step} Then go on: {self._left()}".strip()
            raise trouble
        first = self.tally.first_failure
        if policy.raise_errors and first is not None:
            number, state, error = first
            job = self.journal.entries[number].job or f"of row {number}"
            failure = submission.failure(job, state, error)
            failure.next_step = f"It is row {number}. {self._left()}"
            raise failure
        if self.limit is not None and self.tally.done + self.tally.failed < self.tally.total:
            raise problems.BatchStopped(
                f"{dollars(self.costs.spent - self.before)} are spent, which is more than the limit of "
                f"{dollars(self.limit)}; {self._left()}", "Go on with yes=True.", code="limit",
            )  # fmt: skip

    def _now(self, last: str = "interrupt to stop") -> str:
        t = self.tally
        ended, took = t.done + t.failed, time.monotonic() - self.began
        parts = [f"{self.name}: {ended:,} of {plural(t.total, 'row')}"]
        if t.failed:
            parts.append(f"{t.failed:,} failed")
        parts.append(f"{t.in_flight:,} in flight")
        if t.ended_here:
            rate = t.ended_here / max(took, 0.001)
            parts += [f"{rate:.1f} rows/s", f"{span((t.total - ended) / rate)} left"]
        else:
            parts.append(f"{span(took)} so far")
        if t.waits:
            parts.append("the queue is full")
        if self.reason and not t.ended_here:
            parts.append(self.reason)
        parts.append(f"{dollars(self.costs.spent)} so far")
        return " · ".join([*parts, *([last] if last else [])])

    def _end(self) -> str:
        t, took = self.tally, time.monotonic() - self.began
        said = f"{self.name}: {t.done + t.failed:,} of {plural(t.total, 'row')} in {span(took)}"
        if t.ended_here:
            said += f", {t.ended_here / max(took, 0.001):.1f} rows/s"
        if t.failed:
            said += f" · {t.failed:,} failed"
        return f"{said} · {dollars(self.costs.spent)}"

    def _left(self) -> str:
        """What became of the rows, and how to go on."""
        entries = [self.journal.entries.get(row.number) for row in self.rows]
        ended = sum(entry is not None and entry.end is not None for entry in entries)
        there = sum(entry is not None and entry.end is None for entry in entries)
        said = f"{ended:,} of {plural(len(self.rows), 'row')} are done."
        if there:
            one = there == 1
            place = (
                f"nbgpu.connect().endpoint({self.name!r}).cancel_map({str(self.journal.path)!r})"
            )
            said += (
                f" {plural(there, 'job')} that {'is' if one else 'are'} submitted go{'es' * one} on in "
                f"the backend (to cancel {'it' if one else 'them'}: {place})."
            )
        return said + " Run it again to go on."


__all__ = ["MapResult", "cancel", "run"]
