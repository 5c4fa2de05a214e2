"""Own servers in the panel: added, lost, found again and removed, at a real SSH server. In this order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.lab import OUT, Visit
from tests.support.sshd import Sshd, serving
from tests.support.waiting import until

NETWORK = "network-hosts"
NAME = "lab1"
SECOND = "lab2"
POD = "far"
READY_MS = 240_000  # an environment of its own is made first


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with serving(Sshd(tmp_path_factory.mktemp("sshd") / "server")) as found:
        yield found


@pytest.fixture(scope="module", autouse=True)
def panel(server: Sshd, visit: Visit) -> Iterator[None]:
    expect.set_options(timeout=10_000)
    visit.show_panel()
    visit.width(250)
    expect(visit.panel.get_by_text("No hosts yet.")).to_be_visible(timeout=30_000)
    yield


def row(visit: Visit, name: str = NAME) -> Locator:
    return visit.panel.locator(f'[data-host="{name}"]')


def act(visit: Visit, name: str) -> Locator:
    return visit.panel.get_by_role("button", name=name, exact=True)


def head(visit: Visit, name: str = NAME) -> Locator:
    return row(visit, name).locator(".nbgpu-Row-head")


def form(visit: Visit) -> Locator:
    return visit.panel.get_by_role("form", name="Add a host")


def host(visit: Visit, name: str = NAME) -> dict[str, Any]:
    found: dict[str, Any] = visit.lab.backend.get(f"/nbgpu/v1/hosts/{name}")
    return found


def fill(visit: Visit, **fields: str | Path) -> None:
    for label, value in fields.items():
        form(visit).get_by_label(label.replace("_", " "), exact=True).fill(str(value))


def test_without_hosts_there_is_one_line_and_a_button(visit: Visit) -> None:
    assert visit.violations() == []
    visit.shoot("hosts-none")


def test_a_wrong_address_is_told_and_the_input_kept(visit: Visit, server: Sshd) -> None:
    act(visit, "Add a host").click()
    expect(form(visit).get_by_label("Address")).to_be_focused()
    visit.page.keyboard.press("Enter")
    expect(form(visit).get_by_role("alert")).to_contain_text("Where is it?")
    fill(visit, Address="root@127.0.0.1:1")
    visit.page.keyboard.press("Enter")
    expect(form(visit).get_by_role("alert")).to_contain_text("127.0.0.1:1")
    expect(form(visit).get_by_label("Address")).to_have_value("root@127.0.0.1:1")
    expect(form(visit).get_by_label("Name", exact=True)).to_have_value("host")
    assert visit.violations() == []
    visit.shoot("hosts-refused")


def test_a_key_that_does_not_open_it_is_told(visit: Visit, server: Sshd) -> None:
    target = f"{server.hop().user}@{server.address}:{server.port}"
    fill(visit, Address=target, Name=NAME, Key_file=server.host_key)  # the server knows it not
    visit.page.keyboard.press("Enter")
    act(visit, f"Accept the key of 127.0.0.1:{server.port}, and add the host").click()
    expect(form(visit).get_by_role("alert")).to_be_visible(timeout=30_000)
    expect(form(visit).get_by_label("Name", exact=True)).to_have_value(NAME)
    assert visit.lab.backend.get("/nbgpu/v1/hosts")["hosts"] == []
    act(visit, f"Do not accept the key of 127.0.0.1:{server.port}").click()
    fill(visit, Key_file=server.user_key)


def test_it_is_added_once_its_key_is_accepted(visit: Visit, server: Sshd) -> None:
    act(visit, "Show the key of the host").click()
    question = form(visit).get_by_role("group", name=f"The key of 127.0.0.1:{server.port}")
    expect(question).to_be_focused()
    expect(question).to_contain_text(re.compile(r"SHA256:[\w+/]{43}"))
    assert visit.lab.backend.get("/nbgpu/v1/hosts")["hosts"] == []
    assert visit.violations() == []
    visit.shoot("hosts-key")
    act(visit, f"Accept the key of 127.0.0.1:{server.port}, and add the host").click()
    expect(head(visit)).to_have_attribute("aria-label", f"{NAME}, connected", timeout=60_000)
    expect(head(visit)).to_have_attribute("aria-expanded", "true")
    facts = host(visit)["facts"]
    for text in (f":{server.port}", f"{facts['cpus']} processor", "memory", "disk free"):
        expect(row(visit)).to_contain_text(text)
    expect(row(visit)).to_contain_text("nothing runs there")
    expect(row(visit).locator(".nbgpu-Row-cost")).to_have_text("no price set")
    assert visit.violations() == []
    visit.shoot("hosts-connected")


def test_a_check_says_what_it_has_and_lacks(visit: Visit) -> None:
    act(visit, f"Check the host {NAME}: what it has and lacks").click()
    found = visit.panel.get_by_role("region", name=f"What the check of {NAME} found")
    for what in ("Python", "memory", "disk", "GPUs", "sandbox", "clock"):
        expect(found).to_contain_text(what, timeout=30_000)
    assert visit.violations() == []
    visit.shoot("hosts-check")
    act(visit, f"Close what the check of {NAME} found").click()


def test_it_is_taken_into_use_and_this_machine_again(visit: Visit) -> None:
    act(visit, f"Use {NAME}: pods that name no place go there").click()
    expect(row(visit).get_by_text("in use")).to_be_visible()
    assert visit.lab.backend.get("/nbgpu/v1/settings")["place"] == NAME
    act(visit, "Use local: pods that name no place go to this machine").click()
    expect(row(visit).get_by_text("in use")).to_be_hidden()
    expect(visit.panel.get_by_text("1 host, in use: local")).to_be_visible()


def test_a_jump_host_is_asked_about_first(
    visit: Visit, server: Sshd, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with serving(Sshd(tmp_path_factory.mktemp("jump") / "server")) as jump:
        config = visit.lab.folder / ".ssh" / "config"
        config.parent.mkdir(mode=0o700)
        config.write_text(
            f"Host door\n HostName 127.0.0.1\n Port {jump.port}\n IdentityFile {jump.user_key}\n"
        )
        act(visit, "Add a host").click()
        fill(visit, Address=f"127.0.0.1:{server.port}", Name=SECOND)
        fill(visit, Jump_host="door", Key_file=server.user_key)
        visit.page.keyboard.press("Enter")
        act(visit, f"Accept the key of 127.0.0.1:{jump.port}").click()
        question = form(visit).get_by_role("group", name=f"The key of 127.0.0.1:{server.port}")
        expect(question).to_contain_text(f"the key of 127.0.0.1:{jump.port} is accepted")
        visit.shoot("hosts-jump")
        act(visit, f"Accept the key of 127.0.0.1:{server.port}, and add the host").click()
        connected = f"{SECOND}, connected"
        expect(head(visit, SECOND)).to_have_attribute("aria-label", connected, timeout=60_000)
        visit.shoot("hosts-two")
        act(visit, f"Remove the host {SECOND}").click()
        visit.page.locator(".jp-Dialog").get_by_role("button", name="Remove").click()
        expect(row(visit, SECOND)).to_be_hidden(timeout=30_000)


def test_a_pod_is_opened_there_and_shows_in_its_row(visit: Visit) -> None:
    visit.lab.backend.http.patch("/nbgpu/v1/settings", json={"rates": {NAME: "0.50"}})
    expect(row(visit).locator(".nbgpu-Row-cost")).to_have_text("$0/h")
    act(visit, "Open a pod").click()
    opening = visit.panel.get_by_role("form", name="Open a pod")
    opening.get_by_label("Name", exact=True).fill(POD)
    opening.get_by_role("combobox", name="On", exact=True).select_option(NAME)
    expect(opening).to_contain_text(f"On {NAME}, $0.50/h.")
    assert visit.violations() == []
    visit.shoot("hosts-open-pod")
    act(visit, f"Open the pod {POD}").click()
    pod = visit.panel.locator(f'[data-pod="{POD}"] .nbgpu-Row-head')
    expect(pod).to_have_attribute("aria-label", f"{POD}, idle", timeout=READY_MS)
    expect(row(visit)).to_contain_text(f"runs {POD}")
    expect(row(visit).locator(".nbgpu-Row-cost")).to_have_text("$0.50/h")
    visit.shoot("hosts-pod")


def test_it_is_not_removed_while_it_has_a_pod(visit: Visit) -> None:
    if head(visit).get_attribute("aria-expanded") != "true":
        head(visit).click()
    dialog = visit.page.locator(".jp-Dialog")
    act(visit, f"Remove the host {NAME}").click()
    expect(dialog).to_contain_text(f"It has the pods {POD}")
    visit.page.screenshot(path=OUT / "hosts-remove.png")
    dialog.get_by_role("button", name="Remove").click()
    expect(row(visit).get_by_role("alert")).to_contain_text(f"nbgpu delete {POD}")
    row(visit).get_by_role("button", name="Close this message").click()


def test_quiet_hosts_ask_nothing(visit: Visit) -> None:
    visit.settle(within_s=60)
    before = list(visit.requests)
    visit.page.wait_for_timeout(8_000)
    assert [one for one in visit.requests[len(before) :] if "hosts" in one] == []
    assert len(visit.requests) - len(before) < 4


def test_one_that_is_lost_says_so_and_comes_back(visit: Visit, server: Sshd) -> None:
    server.stop()
    expect(head(visit)).to_have_attribute("aria-label", f"{NAME}, unreachable", timeout=60_000)
    expect(row(visit)).to_contain_text(f"127.0.0.1:{server.port}")
    assert visit.violations() == []
    visit.shoot("hosts-unreachable")
    act(visit, f"Reconnect to the host {NAME}").click()
    expect(head(visit)).to_have_attribute("aria-label", f"{NAME}, unreachable", timeout=30_000)
    server.start()
    act(visit, f"Reconnect to the host {NAME}").click()
    expect(head(visit)).to_have_attribute("aria-label", f"{NAME}, connected", timeout=30_000)


def test_its_actions_are_written_as_cells(visit: Visit) -> None:
    visit.notebook()
    act(visit, f"Insert as cell: Check the host {NAME}: what it has and lacks").click()
    until(lambda: visit.sources() == [f"%load_ext nbgpu\n%gpu host check {NAME}"])
    visit.command("notebook:run-all-cells")
    assert visit.mistakes() == []


def test_it_is_removed_after_a_question(visit: Visit) -> None:
    assert visit.lab.backend.http.delete(f"/v2/pods/{POD}").status_code == 204
    visit.show_panel()
    act(visit, f"Remove the host {NAME}").click()
    dialog = visit.page.locator(".jp-Dialog")
    expect(dialog).to_contain_text("It is forgotten here")
    dialog.get_by_role("button", name="Remove").click()
    expect(visit.panel.get_by_text("No hosts yet.")).to_be_visible(timeout=30_000)


def test_nothing_went_wrong_in_the_page(visit: Visit) -> None:
    assert visit.complaints == []
    assert visit.leaks() == []
