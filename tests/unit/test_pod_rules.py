"""When a pod ends by itself."""

from __future__ import annotations

from decimal import Decimal

import pytest
from nbgpu_backend.domain.pods import (
    STATUS,
    End,
    Limits,
    actions,
    hard_end,
    idle_end,
    nearest,
    warn_at,
)
from nbgpu_backend.errors import BadRequest
from nbgpu_backend.home import Home
from nbgpu_backend.providers.local.pod_environment import PodEnvironment, check

NOW = 1_000_000_000_000
HOUR = 3_600_000_000


def test_money_becomes_an_instant() -> None:
    end = hard_end(
        Limits(max_cost=Decimal("5")), spent=Decimal("2"), now_us=NOW, per_hour=Decimal("1.5")
    )
    assert end == End(NOW + 2 * HOUR, "max_cost", "it has cost $5")


def test_money_that_is_spent_ends_it_now() -> None:
    end = hard_end(Limits(max_cost=Decimal(1)), spent=Decimal(3), now_us=NOW, per_hour=Decimal(1))
    assert end is not None and end.at_us == NOW


def test_what_costs_nothing_is_not_ended_by_its_cost() -> None:
    limits = Limits(max_cost=Decimal(1))
    assert hard_end(limits, spent=Decimal(0), now_us=NOW, per_hour=Decimal(0)) is None


def test_the_nearer_of_time_and_money_counts() -> None:
    limits = Limits(until_us=NOW + HOUR, max_cost=Decimal(10))
    end = hard_end(limits, spent=Decimal(0), now_us=NOW, per_hour=Decimal(1))
    assert end is not None and end.code == "until"


def test_a_busy_pod_is_not_idle_and_an_unlimited_one_never() -> None:
    assert idle_end(Limits(idle_s=60), active_us=NOW, busy=True) is None
    assert idle_end(Limits(), active_us=NOW, busy=False) is None


def test_an_extension_puts_idle_stop_off_and_never_brings_it_nearer() -> None:
    later = idle_end(Limits(idle_s=60, kept_until_us=NOW + HOUR), active_us=NOW, busy=False)
    assert later is not None and later.at_us == NOW + HOUR
    same = idle_end(Limits(idle_s=7200, kept_until_us=NOW + HOUR), active_us=NOW, busy=False)
    assert same is not None and same.at_us == NOW + 2 * HOUR


def test_the_warning_comes_five_minutes_before_and_at_the_half_of_a_short_time() -> None:
    end = End(NOW + HOUR, "idle", "")
    assert warn_at(end, 3600) == NOW + HOUR - 300_000_000
    assert warn_at(end, 60) == NOW + HOUR - 30_000_000


def test_the_nearest_of_nothing_is_nothing() -> None:
    assert nearest(None, None) is None


@pytest.mark.parametrize("state", STATUS)
def test_every_state_says_what_can_be_done(state: str) -> None:
    assert "terminate" in actions(state)


@pytest.mark.parametrize(
    "line", ["-r other.txt", "-e .", "./wheel.whl", "file:///x", "x @ /home/me/x", "~/x"]
)
def test_what_a_pod_cannot_see_is_no_requirement_of_it(line: str) -> None:
    with pytest.raises(BadRequest):
        check([line])


def test_comments_and_blank_lines_make_no_other_environment(tmp_path) -> None:  # type: ignore[no-untyped-def]
    home = Home(tmp_path)
    plain, noted = check(["pandas==2.3.1"]), check(["# data", "", "pandas==2.3.1  # frames"])
    assert PodEnvironment.of(home, plain) == PodEnvironment.of(home, noted)
