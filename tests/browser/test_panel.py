"""A person's way through the panel, in the order in which it is walked: each test goes on from the last."""

from __future__ import annotations

import gzip
import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.lab import BUILT, OUT, Visit
from tests.support.waiting import until

NETWORK = "network"
NAME = "tiny-llama"
IDLE_S = float(os.environ.get("NBGPU_IDLE_S", "20"))
LONG = "a-name-of-an-endpoint-that-is-much-longer-than-the-panel-is-wide"[:63].strip("-")


@pytest.fixture(scope="module", autouse=True)
def narrow(visit: Visit) -> None:
    expect.set_options(timeout=10_000)


def asked(visit: Visit) -> list[str]:
    """The targets of the requests under our routes, without the number by which Lab keeps caches out."""
    return [re.sub(r"[?&]\d+$", "", one.split("/nbgpu/api/")[1]) for one in visit.requests]


def test_a_lab_starts_no_backend_until_the_panel_is_opened(visit: Visit) -> None:
    visit.settle()
    assert asked(visit) == ["nbgpu/v1/changes"]  # once, of one that may run already
    assert not visit.lab.backend.home.backend_json.exists()
    expect(visit.page.locator(".jp-LauncherCard", has_text="Deploy a Model")).to_be_visible()
    visit.shoot("launcher")


def test_an_empty_panel_says_what_to_do_first(visit: Visit) -> None:
    visit.show_panel()
    visit.width(250)
    expect(visit.panel.get_by_text("No endpoints yet.")).to_be_visible(timeout=30_000)
    expect(visit.panel.get_by_role("button", name="Deploy a model")).to_be_visible()
    expect(visit.panel.get_by_text("Nothing has happened yet.")).to_be_visible()
    assert visit.violations() == []
    visit.shoot("empty")
    # so that there are prices to see
    visit.lab.backend.http.patch("/nbgpu/v1/settings", json={"rates": {"local": "3.60"}})


def test_a_first_deploy_takes_few_clicks_and_one_typed_field(
    visit: Visit, tiny_llama: Path
) -> None:
    visit.clicks = 1  # the tab, above
    visit.click(visit.panel.get_by_role("button", name="Deploy a model"))
    form = visit.panel.get_by_role("form", name="Deploy a model")
    field = form.get_by_label("Model")
    expect(field).to_be_focused()
    expect(form.get_by_label("Place")).to_contain_text("$3.60/h")
    visit.shoot("form")
    field.fill("/no/such/folder")
    form.get_by_role("button", name=re.compile("^Deploy")).click()
    expect(form.get_by_role("alert")).to_contain_text("/no/such/folder")
    assert visit.violations() == []
    visit.shoot("form-error")
    models = visit.lab.root / "models"
    models.mkdir()
    (models / NAME).symlink_to(tiny_llama)
    field.fill(f"./models/{NAME}")  # counted from Jupyter's root
    assert form.get_by_label("Name").input_value() == NAME
    form.get_by_label("Idle").select_option("30")  # so that the test need not wait for a minute
    visit.click(form.get_by_role("button", name=f"Deploy {NAME}", exact=True))
    expect(visit.row(NAME)).to_be_visible()
    expect(visit.row(NAME)).to_contain_text("asleep")
    assert visit.clicks <= 5
    visit.shoot("deployed")


def test_asking_shows_the_wait_and_streams_the_answer(visit: Visit) -> None:
    row = visit.row(NAME)
    box = row.get_by_label("Try it")
    box.fill("Say hello.")
    row.get_by_role("button", name=f"Ask {NAME}", exact=True).click()
    tried = row.get_by_role("form", name=f"Try {NAME}")
    expect(tried.get_by_role("status")).to_contain_text(re.compile("start", re.I), timeout=30_000)
    expect(row).to_contain_text("1 starting", timeout=30_000)
    visit.shoot("waiting")
    answer = row.get_by_role("region", name=f"Answer of {NAME}")
    expect(answer).to_be_visible(timeout=180_000)
    first = answer.inner_text()
    expect(row.locator(".nbgpu-Took")).to_contain_text("tokens", timeout=60_000)
    assert answer.inner_text().startswith(first)
    expect(row).to_contain_text("1 idle")
    expect(visit.panel.get_by_text("Idle but billing")).to_be_visible()
    expect(visit.panel.locator(".nbgpu-Figures")).to_contain_text("$3.60/h")
    assert visit.violations() == []
    visit.shoot("answered")


def test_a_cell_does_what_the_button_does(visit: Visit) -> None:
    visit.notebook()
    row = visit.row(NAME)
    row.get_by_role("button", name=f"Insert as cell: Ask {NAME}").click()
    until(lambda: f"%%gpu ask {NAME}\nSay hello." in visit.sources())
    assert visit.sources()[0] == "%load_ext nbgpu"
    visit.run_selected()
    assert visit.mistakes() == []
    row.get_by_role("button", name="Insert as cell: why").click()
    until(lambda: f"%gpu why {NAME}" in visit.sources())
    visit.run_selected()
    assert visit.mistakes() == []
    assert len(visit.outputs()) >= 2
    assert visit.sources()[:3] == [
        "%load_ext nbgpu",
        f"%%gpu ask {NAME}\nSay hello.",
        f"%gpu why {NAME}",
    ]
    visit.shoot("cells")


def test_every_other_action_inserts_a_cell_too(visit: Visit) -> None:
    row = visit.row(NAME)
    for action in ("Stop", "Delete", "Copy a call of"):
        row.get_by_role("button", name=re.compile(f"Insert as cell: {action}")).click()
    until(lambda: any("nbgpu.connect()" in source for source in visit.sources()))
    assert f"%gpu stop {NAME}" in visit.sources()
    assert f"%gpu delete {NAME}" in visit.sources()


def test_it_goes_to_zero_while_nobody_asks(visit: Visit) -> None:
    row = visit.row(NAME)
    expect(row).to_contain_text("1 parked", timeout=90_000)
    expect(row).to_contain_text("asleep")
    expect(visit.panel.locator(".nbgpu-Figures")).to_contain_text("$0/h")
    visit.shoot("parked-engine")


def test_an_idle_panel_asks_nothing(visit: Visit) -> None:
    visit.settle()
    before = list(visit.requests)
    visit.page.wait_for_timeout(IDLE_S * 1000)
    assert visit.requests == before


def test_an_endpoint_made_in_a_notebook_appears(visit: Visit, tiny_llama: Path) -> None:
    visit.notebook()
    visit.write(f"%load_ext nbgpu\n%gpu deploy '{tiny_llama}' --name {LONG}")
    visit.run_selected()
    assert visit.mistakes() == []
    expect(visit.row(LONG)).to_be_visible()
    name = visit.row(LONG).locator(".nbgpu-Row-head")
    assert name.get_attribute("title") == LONG
    visit.row(LONG).get_by_role("button", name=re.compile(f"^{LONG}")).click()
    expect(visit.row(LONG)).to_contain_text(".ipynb")
    assert visit.violations() == []
    visit.shoot("from-a-notebook")


def test_a_killed_backend_is_told_and_comes_back(visit: Visit) -> None:
    visit.tokens.add(visit.lab.backend.backend.token)
    visit.lab.backend.kill()
    expect(visit.panel.get_by_text("The backend has ended.")).to_be_visible()
    visit.shoot("down")
    assert visit.violations() == []
    visit.panel.get_by_role("button", name="Start it again").click()
    expect(visit.panel.get_by_text("The backend has ended.")).to_be_hidden(timeout=30_000)
    expect(visit.row(NAME)).to_be_visible()


def test_a_delete_says_what_is_lost(visit: Visit) -> None:
    row = visit.row(LONG)
    if not row.get_by_role("button", name=f"Delete {LONG}", exact=True).is_visible():
        row.get_by_role("button", name=re.compile(f"^{LONG}")).click()
    row.get_by_role("button", name=f"Delete {LONG}", exact=True).click()
    dialog = visit.page.locator(".jp-Dialog")
    expect(dialog).to_contain_text("Lost with it")
    visit.shoot("delete")
    dialog.get_by_role("button", name="Delete").click()
    expect(visit.row(LONG)).to_be_hidden()


def test_the_status_bar_opens_the_panel(visit: Visit) -> None:
    visit.command("application:toggle-left-area")
    expect(visit.panel).to_be_hidden()
    visit.page.locator(".nbgpu-Status").click()
    expect(visit.panel).to_be_visible()


def test_a_closed_panel_leaves_the_status_bar_which_asks_once(visit: Visit) -> None:
    always = {"min": 1, "max": 1}
    visit.lab.backend.deploy("always-on", workers=always)
    visit.lab.backend.wait_state("always-on", "ready")
    visit.settle()
    visit.requests.clear()
    visit.open()
    expect(visit.panel).to_be_hidden()
    expect(visit.page.locator(".nbgpu-Status")).to_contain_text("$3.60/h · 1 running")
    visit.settle()
    assert asked(visit) == ["nbgpu/v1/changes"]
    visit.shoot("status")
    visit.lab.backend.http.delete("/v2/serverless/always-on").raise_for_status()
    expect(visit.page.locator(".nbgpu-Status")).to_contain_text("$0/h")
    visit.page.locator(".nbgpu-Status").click()
    expect(visit.row(NAME)).to_be_visible()


def test_nothing_went_wrong_in_the_page(visit: Visit) -> None:
    assert visit.complaints == []


def test_no_file_holds_the_token_and_the_build_is_small(visit: Visit) -> None:
    assert visit.leaks() == []
    assert {"network.har", "storage.json"} <= {path.name for path in OUT.iterdir()}
    built = [path for path in BUILT.rglob("*") if path.suffix in (".js", ".css", ".json")]
    assert sum(len(gzip.compress(path.read_bytes())) for path in built) < 300_000
