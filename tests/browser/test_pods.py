"""Pods in JupyterLab: opened, worked in, and not forgotten. In the order in which it is walked."""

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

NETWORK = "network-pods"
NAME = "train"
SECOND = "second"
READY_MS = 240_000  # an environment of its own is made first
ACTIVE = "window.jupyterapp.shell.currentWidget.content.activeCell.model.sharedModel.getSource()"
KERNEL = "() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.{} ?? null"


@pytest.fixture(scope="module", autouse=True)
def panel(visit: Visit) -> Iterator[None]:
    expect.set_options(timeout=10_000)
    visit.show_panel()
    visit.width(250)
    expect(visit.panel.get_by_text("No pods yet.")).to_be_visible(timeout=30_000)
    yield


def row(visit: Visit, name: str = NAME) -> Locator:
    return visit.panel.locator(f'[data-pod="{name}"]')


def act(visit: Visit, name: str) -> Locator:
    return visit.panel.get_by_role("button", name=name, exact=True)


def toast(visit: Visit) -> Locator:
    return visit.page.locator(".jp-toastContainer")


def pod(visit: Visit, name: str = NAME) -> dict[str, Any]:
    found: dict[str, Any] = visit.lab.backend.get(f"/v2/pods/{name}")["nbgpu"]
    return found


def head(visit: Visit, name: str = NAME) -> Locator:
    return row(visit, name).locator(".nbgpu-Row-head")


def opened(visit: Visit, name: str = NAME) -> None:
    """With its row open."""
    visit.show_panel()
    if head(visit, name).get_attribute("aria-expanded") != "true":
        head(visit, name).click()


def kernel(visit: Visit, what: str = "name") -> Any:
    return visit.page.evaluate(KERNEL.format(what))


def in_kernel(visit: Visit, spec: str) -> None:
    """Of the current notebook, and it has nothing to do."""
    visit.page.wait_for_function(
        "spec => { const kernel = window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel;"
        " return kernel?.name === spec && kernel.status === 'idle'; }",
        arg=spec,
        timeout=60_000,
    )


def said(visit: Visit, source: str) -> str:
    """What a cell shows, as JSON; it goes below the others."""
    visit.command("notebook:insert-cell-below")
    before = len(visit.outputs())
    visit.write(source)
    visit.run_selected()
    return json.dumps(visit.outputs()[before:], ensure_ascii=False)


def listed(visit: Visit) -> list[str]:
    """The kernels of Lab's picker."""
    found: list[str] = visit.page.evaluate(
        "() => Object.keys(window.jupyterapp.serviceManager.kernelspecs.specs.kernelspecs)"
    )
    return found


def test_without_pods_there_is_one_line_and_a_button(visit: Visit) -> None:
    assert visit.violations() == []
    visit.shoot("pods-none")


def test_what_is_refused_is_told_at_its_field(visit: Visit) -> None:
    act(visit, "Open a pod").click()
    form = visit.panel.get_by_role("form", name="Open a pod")
    expect(form.get_by_label("Name")).to_be_focused()
    form.get_by_label("Name").fill(NAME)
    form.get_by_label("Idle stop").fill("soon")
    visit.page.keyboard.press("Enter")
    expect(form.get_by_role("alert")).to_contain_text("no length of time")
    expect(form.get_by_label("Idle stop")).to_be_focused()
    assert visit.violations() == []
    visit.shoot("pods-form")
    form.get_by_label("Idle stop").fill("20m")


def test_a_pod_opens_and_says_how_far_it_is(visit: Visit) -> None:
    visit.page.keyboard.press("Enter")
    expect(row(visit)).to_be_visible()
    expect(head(visit)).to_have_attribute("aria-expanded", "true")
    expect(row(visit)).to_contain_text(re.compile("preparing|starting|idle"))
    expect(head(visit)).to_have_attribute("aria-label", f"{NAME}, idle", timeout=READY_MS)
    for text in ("local cpu 1", "$0/h", "stops in 20 min", "after 20 min without use"):
        expect(row(visit)).to_contain_text(text)
    expect(row(visit)).to_contain_text(pod(visit)["isolationText"])
    memory = row(visit).get_by_role("meter", name=f"memory of {NAME}")
    expect(memory).to_have_attribute("aria-valuenow", re.compile(r"^\d+$"))
    assert visit.violations() == []
    visit.shoot("pods-open")


def test_its_end_is_put_off(visit: Visit) -> None:
    act(visit, f"Extend {NAME}: it stops no sooner than in 30 minutes").click()
    expect(row(visit)).to_contain_text("stops in 30 min")
    act(visit, f"Extend {NAME} by 2 h").click()
    expect(row(visit)).to_contain_text("stops in 2 h")


def test_why_and_events_are_told_in_the_row(visit: Visit) -> None:
    act(visit, f"Why? {NAME}").click()
    expect(visit.panel.get_by_role("region", name=f"Why {NAME} is as it is")).to_contain_text(
        "so far"
    )
    act(visit, f"Close why {NAME}").click()
    act(visit, f"Events of {NAME}").click()
    events = visit.panel.get_by_role("region", name=f"Events of {NAME}")
    expect(events).to_contain_text("ready")
    assert visit.violations() == []
    visit.shoot("pods-events")
    act(visit, f"Close the events of {NAME}").click()


def test_an_open_row_of_an_idle_pod_asks_nothing_about_it(visit: Visit) -> None:
    visit.settle()
    before = [one for one in visit.requests if "/v2/pods" in one]
    visit.page.wait_for_timeout(8_000)
    assert [one for one in visit.requests if "/v2/pods" in one] == before


def test_its_kernel_is_picked_in_labs_own_picker(visit: Visit) -> None:
    spec = pod(visit)["kernelspec"]
    until(lambda: spec in listed(visit))
    visit.notebook()
    visit.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Toolbar-kernelName").click()
    dialog = visit.page.locator(".jp-Dialog")
    dialog.locator("select").select_option(label=f"Python 3 · {NAME} (cpu)")
    visit.page.screenshot(path=OUT / "pods-picker.png")
    dialog.locator("button.jp-mod-accept").click()
    in_kernel(visit, spec)
    assert NAME in said(visit, "import os; os.environ['NBGPU_POD']")
    assert "42" in said(visit, "x = 42; x")
    assert visit.mistakes() == []


def test_its_kernel_completes_what_is_typed(visit: Visit) -> None:
    said(visit, "a_name_of_the_pod = 1")
    visit.command("notebook:insert-cell-below")
    visit.command("notebook:enter-edit-mode")
    visit.page.keyboard.type("a_name_of")
    offer = visit.page.locator(".jp-Completer:visible").get_by_text("a_name_of_the_pod")

    def offered() -> bool:
        """Lab waits a second for an answer, and the first one of a kernel may take longer."""
        visit.page.keyboard.press("Tab")
        visit.page.wait_for_timeout(1500)
        return offer.count() > 0

    until(offered, within=40)
    visit.page.screenshot(path=OUT / "pods-completion.png")
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_function(ACTIVE + " === 'a_name_of_the_pod'")


def test_a_widget_of_the_pod_moves_in_the_notebook(visit: Visit) -> None:
    said(visit, "%pip install --quiet ipywidgets")
    said(visit, "import ipywidgets; slider = ipywidgets.IntSlider(value=3); slider")
    handle = visit.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .widget-slider .noUi-handle")
    expect(handle).to_be_visible(timeout=20_000)
    handle.focus()
    for _ in range(2):
        visit.page.keyboard.press("ArrowRight")
    visit.page.screenshot(path=OUT / "pods-widget.png")
    reading = visit.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .widget-readout")
    expect(reading).to_have_text("5")
    assert '"5"' in said(visit, "slider.value")
    said(visit, "slider.value = 9")
    expect(reading).to_have_text("9")
    assert visit.mistakes() == []


def test_it_is_interrupted_and_restarted_as_any_kernel(visit: Visit) -> None:
    visit.command("notebook:insert-cell-below")
    visit.write("import time; open('begun', 'w').close(); time.sleep(600)")
    visit.start_selected()
    until(lambda: visit.lab.backend.get(f"/nbgpu/v1/pods/{NAME}/stat?path=begun")["exists"])
    expect(row(visit)).to_contain_text("busy")
    visit.command("notebook:interrupt-kernel")
    until(lambda: any(out.get("ename") == "KeyboardInterrupt" for out in visit.outputs()))
    assert "42" in said(visit, "x")
    visit.page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.restartKernel()"
    )
    in_kernel(visit, pod(visit)["kernelspec"])
    assert "NameError" in said(visit, "x")


def test_a_cell_gives_its_notebook_to_the_pod(visit: Visit) -> None:
    spec = pod(visit)["kernelspec"]
    visit.notebook()
    visit.write(f"%load_ext nbgpu\n%gpu kernel {NAME}")
    visit.run_selected()
    in_kernel(visit, spec)
    assert NAME in said(visit, "import os; os.environ['NBGPU_POD']")
    assert visit.mistakes() == []


def test_a_button_opens_a_notebook_in_it(visit: Visit) -> None:
    opened(visit)
    before = visit.page.evaluate("() => window.jupyterapp.shell.currentWidget.id")
    act(visit, f"Open a notebook in {NAME}").click()
    visit.page.wait_for_function(
        "id => window.jupyterapp.shell.currentWidget.id !== id", arg=before
    )
    in_kernel(visit, pod(visit)["kernelspec"])
    assert NAME in said(visit, "import os; os.environ['NBGPU_POD']")


def test_a_button_opens_a_terminal_in_it(visit: Visit) -> None:
    act(visit, f"Open a terminal in {NAME}").click()
    visit.page.wait_for_selector(".jp-Terminal:not(.lm-mod-hidden) .xterm")
    until(lambda: pod(visit)["use"]["terminals"] == 1, within=20)
    visit.page.locator(".jp-Terminal .xterm").click()
    visit.page.keyboard.type("echo $NBGPU_POD > said\n")
    file = f"/nbgpu/v1/pods/{NAME}/file?path=said"

    def there() -> bool:
        answer: httpx.Response = visit.lab.backend.http.get(file)
        return answer.status_code == 200 and answer.text.strip() == NAME

    until(there, within=20)
    visit.shoot("pods-terminal")
    visit.page.keyboard.type("exit\n")
    until(lambda: pod(visit)["use"]["terminals"] == 0, within=20)


def test_a_pod_that_ends_under_a_notebook_is_told_and_comes_back(visit: Visit) -> None:
    spec = pod(visit)["kernelspec"]
    visit.page.evaluate(
        "() => { const { shell } = window.jupyterapp;"
        " const [last] = [...shell.widgets('main')].filter(w => w.sessionContext).slice(-1);"
        " shell.activateById(last.id); }"
    )
    in_kernel(visit, spec)
    opened(visit)
    act(visit, f"Stop {NAME}").click()
    expect(toast(visit)).to_contain_text(re.compile(f"{NAME} .*stopped.*ran in it"), timeout=40_000)
    visit.page.screenshot(path=OUT / "pods-closed.png")
    until(lambda: spec not in listed(visit), within=20)
    expect(act(visit, f"Open a notebook in {NAME}")).to_be_disabled()
    toast(visit).get_by_role("button", name="Start again").click()
    expect(head(visit)).to_have_attribute("aria-label", f"{NAME}, idle", timeout=READY_MS)
    until(lambda: spec in listed(visit), within=20)
    in_kernel(visit, spec)
    assert NAME in said(visit, "import os; os.environ['NBGPU_POD']")
    expect(toast(visit).get_by_text("ran in it")).to_have_count(0)


def test_what_a_notebook_leaves_running_is_named_with_its_price(visit: Visit) -> None:
    visit.notebook()
    visit.write(f"%load_ext nbgpu\n%gpu open {SECOND} --cpu 1")
    visit.page.evaluate("() => { window.jupyterapp.shell.currentWidget.context.save(); }")
    visit.run_selected()
    assert visit.mistakes() == []
    expect(head(visit, SECOND)).to_have_attribute("aria-label", f"{SECOND}, idle")
    visit.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    expect(toast(visit)).to_contain_text(f"{SECOND} still runs, at $0/h")
    expect(toast(visit).get_by_text(f"{NAME} still runs")).to_have_count(0)
    visit.page.screenshot(path=OUT / "pods-left.png")
    toast(visit).get_by_role("button", name="Stop", exact=True).click()
    expect(head(visit, SECOND)).to_have_attribute(
        "aria-label", f"{SECOND}, stopped", timeout=40_000
    )


def test_a_delete_says_what_goes_and_may_keep_the_volume(visit: Visit) -> None:
    opened(visit)
    volume = pod(visit)["volumeId"]
    act(visit, f"Delete {NAME}").click()
    dialog = visit.page.locator(".jp-Dialog")
    for text in ("Lost with it", "its kernel", "its home", "/workspace"):
        expect(dialog).to_contain_text(text)
    visit.page.screenshot(path=OUT / "pods-delete.png")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_be_hidden()
    act(visit, f"Delete {NAME}").click()
    dialog.get_by_label("Keep the volume").check()
    dialog.get_by_role("button", name="Delete").click()
    expect(row(visit)).to_be_hidden(timeout=40_000)
    volumes = visit.lab.backend.get("/v2/network-volumes")["networkVolumes"]
    assert volume in {one["id"] for one in volumes}


def test_an_end_of_a_deleted_pod_offers_no_start(visit: Visit) -> None:
    visit.lab.backend.http.delete(f"/v2/pods/{SECOND}").raise_for_status()
    expect(visit.panel.get_by_text("No pods yet.")).to_be_visible(timeout=20_000)
    expect(toast(visit).get_by_role("button", name="Start again")).to_be_hidden()


def test_nothing_went_wrong_in_the_page(visit: Visit) -> None:
    assert visit.complaints == []
    assert visit.leaks() == []
