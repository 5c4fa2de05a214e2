"""Keys in the panel: one is made, opens its endpoint from outside, and opens nothing once revoked. In this order."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Locator, expect

from tests.browser.lab import OUT, Visit
from tests.support.waiting import until

NETWORK = "network-keys"
NAME = "chat"
SECRET = re.compile(r"nbgpu_[\w-]{43}")


@pytest.fixture(scope="module", autouse=True)
def deployed(visit: Visit) -> Iterator[None]:
    """An endpoint on the tiny server, and its row open."""
    expect.set_options(timeout=10_000)
    visit.show_panel()
    visit.width(250)
    expect(visit.panel.get_by_text("No endpoints yet.")).to_be_visible(timeout=30_000)
    visit.lab.backend.deploy(NAME)
    visit.row(NAME).locator(".nbgpu-Row-head").click()
    yield


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    """The secret and the address as a person has copied them."""
    return {}


def act(visit: Visit, name: str) -> Locator:
    return visit.row(NAME).get_by_role("button", name=name, exact=True)


def keys(visit: Visit) -> Locator:
    return visit.row(NAME).get_by_role("region", name=f"Keys of {NAME}", exact=True)


def ask(made: dict[str, str]) -> httpx.Response:
    """As a program outside Jupyter would."""
    body: dict[str, Any] = {"model": NAME, "messages": [{"role": "user", "content": "two words"}]}
    return httpx.post(
        made["url"] + "/chat/completions",
        json=body,
        headers={"Authorization": f"Bearer {made['secret']}"},
        timeout=30,
        trust_env=False,
    )


def test_without_keys_it_says_what_one_is_for(visit: Visit) -> None:
    assert not [one for one in visit.requests if "v1/keys" in one]
    act(visit, f"Keys of {NAME}").click()
    expect(keys(visit)).to_contain_text(f"a program outside Jupyter can call {NAME}")
    assert visit.violations() == []
    visit.shoot("keys-none")


def test_what_is_refused_is_told_at_its_field(visit: Visit) -> None:
    act(visit, f"New key of {NAME}").click()
    expect(keys(visit).get_by_label("Label")).to_be_focused()
    keys(visit).get_by_label("Label").fill("my app")
    keys(visit).get_by_label("Requests a minute").fill("60")
    keys(visit).get_by_label("At once").fill("many")
    visit.page.keyboard.press("Enter")
    expect(keys(visit).get_by_role("alert")).to_contain_text("A number from 1 to 100,000")
    expect(keys(visit).get_by_label("At once")).to_be_focused()
    assert visit.violations() == []
    visit.shoot("keys-refused")
    keys(visit).get_by_label("At once").fill("4")


def test_the_secret_is_shown_once_and_opens_the_endpoint(
    visit: Visit, made: dict[str, str]
) -> None:
    visit.page.keyboard.press("Enter")
    shown = keys(visit).get_by_role("group", name=f"The new key of {NAME}")
    expect(shown).to_contain_text("it will not be shown again")
    secret, url = (code.inner_text() for code in shown.locator("code").all())
    assert SECRET.fullmatch(secret)
    made.update(secret=secret, url=url)
    copy = shown.get_by_role("button", name=f"Copy the new key of {NAME}")
    expect(copy).to_be_focused()
    expect(keys(visit).locator("[data-key-id]")).to_contain_text("never used")
    assert visit.violations() == []
    visit.shoot("keys-secret")
    copy.click()
    expect(visit.page.locator(".jp-toastContainer")).to_contain_text("The key is on the clipboard.")
    assert ask(made).status_code == 200


def test_once_hidden_it_is_nowhere_in_the_page(visit: Visit, made: dict[str, str]) -> None:
    keys(visit).get_by_role("button", name=f"Hide the new key of {NAME}").click()
    expect(act(visit, f"New key of {NAME}")).to_be_focused()
    act(visit, f"Keys of {NAME}").click()
    expect(keys(visit)).to_be_hidden()
    act(visit, f"Keys of {NAME}").click()
    expect(keys(visit).locator("[data-key-id]")).to_be_visible()
    assert made["secret"] not in visit.page.content()
    stored = visit.page.evaluate("() => JSON.stringify([{...localStorage}, {...sessionStorage}])")
    assert made["secret"] not in stored


def test_what_came_with_a_key_is_listed(visit: Visit) -> None:
    backend = visit.lab.backend
    until(lambda: backend.get(f"/nbgpu/v1/keys?endpoint={NAME}")["keys"][0]["requests"] == 1)
    act(visit, f"Read the keys of {NAME} again").click()
    line = keys(visit).locator("[data-key-id]")
    expect(line).to_contain_text("1 request ·")
    for text in ("my app", "nbgpu_", "60 a minute, 4 at once · used ", " tokens in, "):
        expect(line).to_contain_text(text)
    assert visit.violations() == []
    visit.shoot("keys")


def test_the_command_opens_them(visit: Visit) -> None:
    act(visit, f"Close the keys of {NAME}").click()
    expect(act(visit, f"Keys of {NAME}")).to_be_focused()
    visit.command("nbgpu:keys", {"name": NAME})
    expect(keys(visit).locator("[data-key-id]")).to_be_visible()


def test_open_keys_ask_nothing_while_nothing_happens(visit: Visit) -> None:
    visit.settle()
    before = list(visit.requests)
    visit.page.wait_for_timeout(8_000)
    assert visit.requests == before


def test_a_key_is_revoked_only_after_a_question(visit: Visit, made: dict[str, str]) -> None:
    chip = keys(visit).get_by_role("button", name=re.compile(r"^Revoke my app \(nbgpu_.+…\)$"))
    dialog = visit.page.locator(".jp-Dialog")
    chip.click()
    expect(dialog).to_contain_text(re.compile(r"Revoke my app \(nbgpu_.+…\)\?"))
    expect(dialog).to_contain_text("What it has in progress goes on.")
    visit.page.screenshot(path=OUT / "keys-revoke.png")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_be_hidden()
    assert ask(made).status_code == 200
    chip.click()
    dialog.get_by_role("button", name="Revoke").click()
    expect(keys(visit)).to_contain_text("No keys yet.")
    expect(act(visit, f"New key of {NAME}")).to_be_focused()
    assert ask(made).status_code == 401


def test_keys_are_written_as_cells_that_show_no_secret(visit: Visit) -> None:
    visit.notebook()
    act(visit, f"Insert as cell: Keys of {NAME}").click()
    act(visit, f"New key of {NAME}").click()
    keys(visit).get_by_label("Label").fill("job")
    act(visit, f"Insert as cell: Make a key of {NAME}").click()
    add = f"%gpu key add {NAME} --label job -o new_key"
    until(lambda: visit.sources() == [f"%load_ext nbgpu\n%gpu key ls {NAME}", add])
    visit.command("notebook:run-all-cells")
    assert visit.mistakes() == []
    assert not SECRET.search(json.dumps(visit.outputs()))
    visit.write("print(new_key.secret[:6])")
    visit.run_selected()
    assert visit.mistakes() == []
    assert "nbgpu_" in json.dumps(visit.outputs())


def test_nothing_went_wrong_in_the_page(visit: Visit, made: dict[str, str]) -> None:
    assert visit.complaints == []
    assert visit.leaks() == []
    storage = OUT / NETWORK.replace("network", "storage")
    assert made["secret"] not in storage.with_suffix(".json").read_text()
