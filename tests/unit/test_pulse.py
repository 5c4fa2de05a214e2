"""The figures of the last minutes, and when who watches is told to look."""

from __future__ import annotations

import asyncio

from nbgpu_backend.schema.events import Beat
from nbgpu_backend.telemetry.pulse import LATENCIES, Pulse, Vitals


class HandClock:
    """Time goes by when the test says so."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> int:
        return int(self.at * 1e6)

    def elapsed(self) -> float:
        return self.at

    async def sleep_until(self, elapsed_s: float) -> None:
        raise NotImplementedError


def test_a_sparkline_moves_on_and_forgets_after_five_minutes() -> None:
    clock = HandClock()
    vitals = Vitals(clock)
    vitals.add(200, 10)
    vitals.add(503, 10)
    clock.at += 5
    vitals.add(200, 10)
    assert vitals.spark() == [0] * 58 + [2, 1]
    clock.at += 5 * 58
    assert vitals.spark() == [2, 1] + [0] * 58
    clock.at += 5
    assert vitals.spark() == [1] + [0] * 59
    clock.at += 3600
    assert vitals.spark() == [0] * 60


def test_the_rate_is_that_of_the_last_minute() -> None:
    clock = HandClock()
    vitals = Vitals(clock)
    for _ in range(30):
        vitals.add(200, 10)
    assert vitals.per_second() == 0.5
    clock.at += 61
    assert vitals.per_second() == 0


def test_quantiles_are_of_answered_requests_of_a_quarter_of_an_hour() -> None:
    clock = HandClock()
    vitals = Vitals(clock)
    assert vitals.quantiles_ms() == (None, None)
    for ms in range(1, 101):
        vitals.add(200, float(ms))
    vitals.add(499, 1e6)
    assert vitals.quantiles_ms() == (50.0, 95.0)
    clock.at += 899
    vitals.add(200, 7.0)
    clock.at += 2
    assert vitals.quantiles_ms() == (7.0, 7.0)


def test_a_busy_endpoint_keeps_a_bounded_number() -> None:
    vitals = Vitals(HandClock())
    for ms in range(LATENCIES * 3):
        vitals.add(200, float(ms))
    assert vitals.quantiles_ms()[0] == LATENCIES * 2.5 - 1


def test_what_a_restart_reads_back_stands_where_it_was() -> None:
    pulse = Pulse(HandClock())
    pulse.load([("e", 200, 30.0, 600.0), ("e", 200, 10.0, 12.0)])
    assert pulse.vitals("e").spark() == [0] * 56 + [1, 0, 0, 0]
    assert pulse.vitals("e").quantiles_ms() == (10.0, 30.0)


async def test_beats_come_at_once_then_gathered_and_then_not_at_all() -> None:
    clock = HandClock()
    pulse = Pulse(clock)
    pulse.touch("nobody-listens")
    heard: asyncio.Queue[Beat] = asyncio.Queue()
    stop = pulse.listen(heard.put_nowait)
    pulse.touch("a")
    first = await asyncio.wait_for(heard.get(), 1)
    assert (first.kind, first.endpoint_ids) == ("state", ["a"])
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(100):
        pulse.request("b", 200, 1.0)
        pulse.request("a", 200, 1.0)
    second = await asyncio.wait_for(heard.get(), 1)
    assert (second.kind, second.endpoint_ids) == ("requests", ["a", "b"])
    assert loop.time() - began > 0.15
    assert heard.empty()
    stop()
    pulse.touch("a")
    assert pulse._timer is None  # nobody is there to be told
