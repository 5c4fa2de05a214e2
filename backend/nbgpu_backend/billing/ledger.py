"""The ledger: which instance ran from when to when at what rate.

The functions that take a connection run inside somebody's transaction; the object keeps the open rows and
the totals of the closed ones in memory, so that "cost so far" costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import Connection, func, insert, select, update

from nbgpu_backend.billing.rates import Rate
from nbgpu_backend.domain.pricing import Interval, lifetime_amount
from nbgpu_backend.store.tables import instances, ledger


@dataclass(slots=True)
class Account:
    """The money of one instance: its finished intervals and the one that runs."""

    instance: str
    endpoint_id: str
    rate: Rate
    since_us: int
    past: list[Interval]

    def amount(self, now_us: int) -> Decimal:
        return lifetime_amount([*self.past, self._running(now_us)])

    def _running(self, now_us: int) -> Interval:
        return Interval(
            self.instance, self.since_us, max(now_us, self.since_us), self.rate.per_hour
        )


class Ledger:
    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self._closed: dict[str, Decimal] = {}  # endpoint id -> dollars of ended instances

    def load(self, connection: Connection) -> None:
        """Read all rows: open accounts, and totals of the rest."""
        rows = connection.execute(select(ledger).order_by(ledger.c.id)).mappings().all()
        past: dict[str, list[Interval]] = {}
        owners: dict[str, str] = {}
        for row in rows:
            instance = row["instance_id"]
            owners[instance] = row["endpoint_id"]
            if row["ended_us"] is None:
                self.accounts[instance] = Account(
                    instance,
                    row["endpoint_id"],
                    Rate(Decimal(row["rate"]), row["rate_source"]),
                    row["started_us"],
                    past.get(instance, []),
                )
            else:
                past.setdefault(instance, []).append(interval(dict(row), row["ended_us"]))
        for instance, intervals in past.items():
            if instance not in self.accounts:
                self._add_closed(owners[instance], lifetime_amount(intervals))

    def cost(self, endpoint_id: str, now_us: int) -> Decimal:
        running = sum(
            (a.amount(now_us) for a in self.accounts.values() if a.endpoint_id == endpoint_id),
            Decimal(0),
        )
        return self._closed.get(endpoint_id, Decimal(0)) + running

    def rate_now(self, endpoint_id: str | None = None) -> Decimal:
        """Dollars an hour of what runs."""
        return sum(
            (
                a.rate.per_hour
                for a in self.accounts.values()
                if endpoint_id is None or a.endpoint_id == endpoint_id
            ),
            Decimal(0),
        )

    # Each pair below is one step: the rows (inside a transaction), then the memory (once committed).

    @staticmethod
    def write_open(
        connection: Connection, instance: str, endpoint_id: str, rate: Rate, at_us: int
    ) -> None:
        connection.execute(
            insert(ledger).values(
                instance_id=instance,
                endpoint_id=endpoint_id,
                rate=f"{rate.per_hour:f}",
                rate_source=rate.source,
                started_us=at_us,
                alive_until_us=at_us,
                estimated=0,
            )
        )

    @staticmethod
    def write_missed_ends(connection: Connection) -> None:
        """A bill ends with its instance at the latest, whatever was lost between the two."""
        end = (
            select(instances.c.ended_us)
            .where(instances.c.id == ledger.c.instance_id)
            .scalar_subquery()
        )
        connection.execute(
            update(ledger)
            .where(ledger.c.ended_us.is_(None) & end.is_not(None))
            .values(
                ended_us=func.max(end, ledger.c.started_us),
                alive_until_us=func.max(end, ledger.c.started_us),
                estimated=1,
            )
        )

    def opened(self, instance: str, endpoint_id: str, rate: Rate, at_us: int) -> None:
        self.accounts[instance] = Account(instance, endpoint_id, rate, at_us, [])

    @staticmethod
    def write_close(
        connection: Connection, instance: str, ended_us: int, *, estimated: bool
    ) -> None:
        """An end before the start (clocks were set) is the start."""
        open_row = (ledger.c.instance_id == instance) & (ledger.c.ended_us.is_(None))
        started = connection.execute(select(ledger.c.started_us).where(open_row)).scalar()
        if started is None:
            return
        ended = max(ended_us, started)
        connection.execute(
            update(ledger)
            .where(open_row)
            .values(ended_us=ended, alive_until_us=ended, estimated=int(estimated))
        )

    def closed(self, instance: str, ended_us: int) -> Decimal:
        """What the instance cost in all."""
        account = self.accounts.pop(instance, None)
        if account is None:
            return Decimal(0)
        amount = account.amount(ended_us)
        self._add_closed(account.endpoint_id, amount)
        return amount

    @staticmethod
    def write_rate(
        connection: Connection, accounts: Iterable[Account], rate: Rate, at_us: int
    ) -> None:
        for account in accounts:
            Ledger.write_close(connection, account.instance, at_us, estimated=False)
            Ledger.write_open(connection, account.instance, account.endpoint_id, rate, at_us)

    def rate_changed(self, accounts: Iterable[Account], rate: Rate, at_us: int) -> None:
        for account in accounts:
            account.past.append(account._running(at_us))
            account.rate, account.since_us = rate, at_us

    @staticmethod
    def write_alive(connection: Connection, instances: Iterable[str], at_us: int) -> None:
        connection.execute(
            update(ledger)
            .where(ledger.c.instance_id.in_(list(instances)) & ledger.c.ended_us.is_(None))
            .values(alive_until_us=at_us)
        )

    def _add_closed(self, endpoint_id: str, amount: Decimal) -> None:
        self._closed[endpoint_id] = self._closed.get(endpoint_id, Decimal(0)) + amount


def interval(row: dict[str, object], end_us: int) -> Interval:
    """A ledger row as the pricing rule wants it."""
    started = row["started_us"]
    assert isinstance(started, int)
    return Interval(
        str(row["instance_id"]), started, max(end_us, started), Decimal(str(row["rate"]))
    )
