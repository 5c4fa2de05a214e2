"""Workers in the panel: by state, each with its why; scale and warm, in the order in which they are tried."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Route, expect

from tests.browser.lab import Visit
from tests.support.backend import CLONE, command_engine
from tests.support.waiting import until

NETWORK = "network-scaling"
NAME = "chat"
ENGINE = command_engine("--startup-s", "2")


@pytest.fixture(scope="module", autouse=True)
def deployed(visit: Visit) -> Iterator[None]:
    """An endpoint with a price that nobody asks anything."""
    expect.set_options(timeout=10_000)
    visit.show_panel()
    visit.width(250)
    expect(visit.panel.get_by_text("No endpoints yet.")).to_be_visible(timeout=30_000)
    backend = visit.lab.backend
    backend.http.patch("/nbgpu/v1/settings", json={"rates": {"local": "3.60"}}).raise_for_status()
    backend.deploy(NAME, workers={"max": 1, "idleTimeout": 2}, nbgpu={"engine": ENGINE})
    visit.row(NAME).locator(".nbgpu-Row-head").click()
    expect(visit.row(NAME)).to_contain_text("Workers: none")
    yield


def act(visit: Visit, name: str) -> Locator:
    return visit.row(NAME).get_by_role("button", name=name, exact=True)


def activity(visit: Visit) -> Locator:
    return visit.panel.locator(".nbgpu-Activity")


def test_warm_starts_a_worker_that_nobody_asked(visit: Visit) -> None:
    act(visit, f"Keep {NAME} warm for 30 min").click()
    row = visit.row(NAME)
    expect(row.locator(".nbgpu-Row-numbers")).to_contain_text(re.compile(r"warm until \d\d:\d\d"))
    expect(row.locator("[data-worker]")).to_contain_text("starting")
    expect(row.locator("[data-worker]")).to_contain_text("idle", timeout=30_000)
    expect(row.locator("[data-worker]")).to_contain_text("plain start")
    expect(activity(visit)).to_contain_text(re.compile(rf"{NAME}: cold start \d+(\.\d+)? s"))
    assert visit.violations() == []
    visit.shoot("warm")


def test_a_worker_says_why_it_is_there(visit: Visit) -> None:
    worker = visit.lab.backend.worker(NAME)["id"]
    act(visit, f"why? worker {worker}").click()
    told = visit.row(NAME).get_by_role("region", name=f"Why {worker} is as it is")
    expect(told).to_contain_text(f"{worker} is idle:")
    words = visit.lab.backend.get(f"/nbgpu/v1/why/{worker}")
    for text in (words["reason"]["text"], *words["facts"]):
        expect(told).to_contain_text(text)
    expect(told).to_contain_text("ago")
    assert visit.violations() == []
    visit.shoot("why-worker")
    told.get_by_role("button", name=f"copy: nbgpu scale {NAME} --idle 5m").click()
    expect(visit.page.locator(".jp-toastContainer")).to_contain_text("on the clipboard")
    visit.page.keyboard.press("Escape")  # the copy button has the focus
    expect(told).to_be_hidden()
    expect(act(visit, f"why? worker {worker}")).to_be_focused()


def test_scale_changes_the_limit(visit: Visit) -> None:
    act(visit, f"Scale {NAME}").click()
    form = visit.row(NAME).get_by_role("form", name=f"Scale {NAME}")
    most = form.get_by_label("At most")
    expect(most).to_be_focused()
    # a worker is kept warm, yet none is set to be always on
    expect(form.get_by_label("Always on")).to_have_value("0")
    most.fill("2")
    expect(form).to_contain_text("At most $7.20/h: 2 workers at $3.60/h.")
    form.get_by_label("Always on").fill("3")
    visit.page.keyboard.press("Enter")
    expect(form.get_by_role("alert")).to_contain_text("3 always on is more than at most 2 allows")
    assert visit.violations() == []
    visit.shoot("scale")
    form.get_by_label("Always on").fill("2")
    expect(form).to_contain_text("2 always on: about $5,256.00 a month")
    form.get_by_label("Idle").fill("5m")
    visit.page.keyboard.press("Enter")
    expect(form).to_be_hidden()
    expect(act(visit, f"Scale {NAME}")).to_be_focused()
    limits = visit.lab.backend.get(f"/v2/serverless/{NAME}")["workers"]
    assert limits == {"min": 2, "max": 2, "idleTimeout": 300}
    row = visit.row(NAME)
    expect(row.locator("[data-worker]")).to_have_count(2)
    expect(row).to_contain_text("Workers: 2 idle", timeout=30_000)
    expect(row).to_contain_text("at most 2 workers")
    visit.shoot("scaled")


def test_the_endpoint_says_why_as_the_command_line_does(visit: Visit) -> None:
    act(visit, f"Why? {NAME}").click()
    told = visit.row(NAME).get_by_role("region", name=f"Why {NAME} is as it is")
    words = visit.lab.backend.get(f"/nbgpu/v1/why/{NAME}")
    for text in (f"{NAME} is ready: {words['reason']['text']}", *words["facts"]):
        expect(told).to_contain_text(text)
    expect(told).to_contain_text(words["nextStep"].partition(",")[0])
    visit.shoot("why-endpoint")


def test_the_commands_scale_and_warm_too(visit: Visit) -> None:
    visit.command("nbgpu:scale", {"name": NAME, "alwaysOn": 0, "idle": 2})
    visit.command("nbgpu:warm", {"name": NAME, "seconds": 0})
    row = visit.row(NAME)
    expect(row.locator(".nbgpu-Row-numbers")).not_to_contain_text("warm until")
    expect(row).to_contain_text("at most 2 workers, stops after 2 s idle")
    # the story of the endpoint goes on by itself
    told = row.get_by_role("region", name=f"Why {NAME} is as it is")
    expect(told).to_contain_text(f"{NAME} is asleep", timeout=30_000)
    expect(row).to_contain_text("Workers: none")
    visit.command("nbgpu:scale", {"name": NAME})
    most = row.get_by_role("form", name=f"Scale {NAME}").get_by_label("At most")
    expect(most).to_be_focused()
    expect(most).to_have_value("2")
    visit.page.keyboard.press("Escape")
    expect(most).to_be_hidden()
    told.get_by_role("button", name=re.compile("^Close")).click()


def test_scale_and_warm_are_written_as_cells(visit: Visit) -> None:
    verbs = {one["name"] for one in json.loads((CLONE / "magics/nbgpu/verbs.json").read_text())}
    if not {"scale", "warm"} <= verbs:
        pytest.skip("the magics have no verbs scale and warm: their buttons offer no cell")
    visit.notebook()
    row = visit.row(NAME)
    act(visit, f"Insert as cell: Keep {NAME} warm for 2 h").click()
    act(visit, f"Scale {NAME}").click()
    expect(row.get_by_label("At most")).to_be_focused()
    row.get_by_label("At most").fill("3")
    act(visit, f"Insert as cell: Apply the limits of {NAME}").click()
    wanted = [f"%load_ext nbgpu\n%gpu warm {NAME} --for 2h", f"%gpu scale {NAME} --workers 3"]
    until(lambda: visit.sources() == wanted)
    row.get_by_role("button", name="Cancel").click()


def test_an_open_panel_asks_nothing_while_nothing_happens(visit: Visit) -> None:
    visit.settle()
    before = list(visit.requests)
    visit.page.wait_for_timeout(8_000)
    assert visit.requests == before


def test_a_worker_that_died_still_says_why(visit: Visit) -> None:
    visit.lab.backend.http.post(f"/nbgpu/v1/warm/{NAME}", json={"seconds": 600}).raise_for_status()
    worker = visit.lab.backend.worker(NAME, "idle")
    act(visit, f"why? worker {worker['id']}").click()
    told = visit.row(NAME).get_by_role("region", name=f"Why {worker['id']} is as it is")
    expect(told).to_contain_text("is idle:")
    visit.lab.backend.http.post(f"/v2/serverless/{NAME}/action", json={"action": "stop"})
    expect(told).to_contain_text(f"{worker['id']} is stopped", timeout=30_000)
    expect(act(visit, f"Keep {NAME} warm for 2 h")).to_be_disabled()
    visit.shoot("ended")
    until(lambda: not visit.lab.backend.row(NAME)["workers"])


def test_a_worker_is_parked_and_woken(visit: Visit) -> None:
    name, backend = "parker", visit.lab.backend
    extras = {"engine": ENGINE, "policy": {"parkS": 600}}
    backend.deploy(name, workers={"max": 1, "idleTimeout": 1}, nbgpu=extras)
    visit.command("nbgpu:warm", {"name": name, "seconds": 60})  # the panel has not heard of it yet
    backend.wait_state(name, "ready")
    visit.command("nbgpu:warm", {"name": name, "seconds": 0})
    row = visit.row(name)
    row.locator(".nbgpu-Row-head").click()
    worker = row.locator("[data-worker]")
    expect(worker).to_contain_text("without work for 1 s", timeout=30_000)
    expect(activity(visit)).to_contain_text(f"{name}: parked: without work for 1 s")
    visit.shoot("parked")
    row.get_by_role("button", name=f"Keep {name} warm for 2 h", exact=True).click()
    expect(worker).to_contain_text("woken", timeout=30_000)
    expect(activity(visit)).to_contain_text(re.compile(rf"{name}: woken [\d.]+ m?s"))
    assert visit.violations() == []
    visit.shoot("woken")


def test_64_workers_are_few_lines_and_all_are_reached(visit: Visit) -> None:
    states = ("running", "idle", "starting", "parked", "draining", "throttled", "unhealthy")
    sums = "too little memory: it needs 3.1 GB and 2.0 GB are available (1 worker 1.2 GB)"
    happened = {
        "worker.throttled": f"{NAME} waits: {sums}",
        "worker.fell_back": f"A worker of {NAME}: it was started plainly: the parent has ended",
    }

    def crowd(route: Route) -> None:
        answer = route.fetch()
        body = answer.json()
        for row in body["summary"]["endpoints"]:
            one = {"pid": 1, "port": 1, "tier": "preimported", "reason": "it answers", "held": 2}
            row["workers"] = [
                {
                    **one,
                    "id": f"w-{number:03}",
                    "state": states[number // 10],
                    "sinceUs": body["summary"]["atUs"] - 125_000_000,
                    "gpu": "RTX4090",
                    "costSoFar": "0.41",
                }
                for number in range(64)
            ]
            row["workersByState"] = dict.fromkeys(states, 9)
        for last in body["events"][-1:]:
            while happened:  # once
                kind, text = happened.popitem()
                told = {"kind": kind, "text": text, "endpoint": NAME, "seq": -len(happened)}
                body["events"].append({**last, **told})
        route.fulfill(response=answer, json=body)

    visit.page.route("**/nbgpu/v1/changes*", crowd)
    visit.lab.backend.http.post(f"/v2/serverless/{NAME}/action", json={"action": "start"})
    visit.row(NAME).locator(".nbgpu-Row-head").click()
    lines = visit.row(NAME).locator("[data-worker]")
    expect(lines.first).to_contain_text("running 2 min")
    assert lines.count() < 20
    expect(activity(visit)).to_contain_text(f"{NAME}: throttled: {sums}")
    expect(activity(visit)).to_contain_text(f"{NAME}: fell back: it was started plainly")
    box = visit.row(NAME).get_by_role("group", name=f"Workers of {NAME} by state")
    box.scroll_into_view_if_needed()
    assert visit.violations() == []
    visit.shoot("crowd")
    box.focus()
    last = box.locator('[data-worker="w-063"]')

    def reached() -> bool:
        """Lines turn out higher, or lower, as they come into view."""
        visit.page.keyboard.press("End")
        visit.page.wait_for_timeout(300)
        held, line = box.bounding_box(), last.bounding_box() if last.count() else None
        return held is not None and line is not None and line["y"] < held["y"] + held["height"]

    until(reached)
    assert lines.count() < 20
    visit.settle()
    visit.page.unroute_all(behavior="wait")


def test_nothing_went_wrong_in_the_page(visit: Visit) -> None:
    assert visit.complaints == []
    assert visit.leaks() == []
