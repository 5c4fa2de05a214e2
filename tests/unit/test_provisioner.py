"""A pod's kernel in Jupyter's own managers: a real ipykernel over ipc, served by the stand-in."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.ioloop import AsyncIOLoopKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.multikernelmanager import AsyncMultiKernelManager
from nbgpu.client import connect
from nbgpu.provisioner import PodError, PodProvisioner

from tests.support.api import Api

SPEC = "nbgpu-train"


async def until(condition: Callable[[], Any], within_s: float = 20.0) -> None:
    end = time.monotonic() + within_s
    while True:
        found = condition()
        if await found if isinstance(found, Awaitable) else found:
            return
        assert time.monotonic() < end, "it did not come true in time"
        await asyncio.sleep(0.02)


@pytest.fixture
def specs(api: Api) -> KernelSpecManager:
    """The kernelspec that the backend keeps while the pod `train` runs."""
    connect().open("train", cpu=1)
    folder = api.home.root / "kernels" / SPEC
    folder.mkdir(parents=True)
    config = {"pod": "train", "home": str(api.home.root)}
    spec = {
        "argv": [], "display_name": "Python 3 · train (cpu)", "language": "python",
        "interrupt_mode": "signal",
        "metadata": {"kernel_provisioner": {"provisioner_name": "nbgpu-pod", "config": config}},
    }  # fmt: skip
    (folder / "kernel.json").write_text(json.dumps(spec))
    return KernelSpecManager(kernel_dirs=[str(folder.parent)])


@pytest.fixture
async def manager(
    specs: KernelSpecManager, tmp_path: Path
) -> AsyncIterator[AsyncIOLoopKernelManager]:
    made = AsyncIOLoopKernelManager(
        kernel_name=SPEC, kernel_spec_manager=specs, connection_file=str(tmp_path / "c.json")
    )
    yield made
    if made.has_kernel:
        await made.shutdown_kernel(now=True)


async def client_of(manager: Any) -> AsyncKernelClient:
    client: AsyncKernelClient = manager.client()
    client.start_channels()
    await client.wait_for_ready(timeout=60)
    return client


async def value(client: AsyncKernelClient, code: str) -> str:
    """What `code` prints."""
    wanted = client.execute(code)
    text = ""
    while True:
        message = await client.get_iopub_msg(timeout=30)
        if message["parent_header"].get("msg_id") != wanted:
            continue
        if message["msg_type"] == "stream":
            text += message["content"]["text"]
        if message["msg_type"] == "error":
            text += message["content"]["ename"]
        if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            return text


def descriptors() -> set[str]:
    return {os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{n}")}  # fmt: skip


async def test_a_notebook_runs_in_the_pods_kernel(manager: Any, api: Api) -> None:
    await manager.start_kernel()
    assert isinstance(manager.provisioner, PodProvisioner)
    client = await client_of(manager)
    connect().pod("train").run("x = 41", background=True).wait(30)
    # cells of the notebook and those of `run` are one name space
    assert await value(client, "print(x + 1)") == "42\n"
    wanted = client.execute("import time\nprint('on it', flush=True)\ntime.sleep(600)")
    while (await client.get_iopub_msg(timeout=30))["msg_type"] != "stream":
        pass
    await manager.interrupt_kernel()
    reply = await client.get_shell_msg(timeout=30)
    while reply["parent_header"]["msg_id"] != wanted:
        reply = await client.get_shell_msg(timeout=30)
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    folder = str(api.pods.pods["train"].folder / "run")
    assert folder in descriptors()
    client.stop_channels()
    await manager.shutdown_kernel()
    # the kernel is gone, the pod stays, and nothing is left open
    assert api.pods.pods["train"].n.state == "idle"
    assert api.pods.pods["train"].manager is None
    assert folder not in descriptors()


async def test_a_restart_keeps_the_sockets_that_clients_are_connected_to(
    manager: Any, api: Api
) -> None:
    await manager.start_kernel()
    client = await client_of(manager)
    await value(client, "x = 1")
    before = manager.get_connection_info()
    await manager.restart_kernel()
    assert manager.get_connection_info() == before
    await client.wait_for_ready(timeout=60)
    assert await value(client, "print('x' in globals())") == "False\n"
    assert api.pods.pods["train"].generation == 2
    client.stop_channels()


async def test_a_kernel_that_died_is_started_again(manager: Any, api: Api) -> None:
    restarted: list[str] = []
    await manager.start_kernel()
    manager.add_restart_callback(lambda: restarted.append("again"))
    client = await client_of(manager)
    client.execute("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    await until(lambda: bool(restarted))
    await until(lambda: api.pods.pods["train"].generation == 2, 60)
    await until(manager.is_alive)
    await client.wait_for_ready(timeout=60)
    assert await value(client, "print(1)") == "1\n"
    client.stop_channels()


async def test_a_backend_that_is_away_is_no_death(manager: Any, api: Api) -> None:
    await manager.start_kernel()
    client = await client_of(manager)
    api.away = True
    assert await manager.is_alive()
    saved = api.home.backend_json.read_text()
    api.home.backend_json.unlink()
    assert await manager.is_alive()
    assert await value(client, "print('goes on')") == "goes on\n"
    api.home.backend_json.write_text(saved)
    api.away = False
    client.stop_channels()


async def test_a_pod_that_ends_leaves_a_dead_kernel_and_says_why(
    manager: Any, api: Api, caplog: Any
) -> None:
    told: list[str] = []
    await manager.start_kernel()
    for event in ("dead", "restart"):
        manager.add_restart_callback(lambda event=event: told.append(event), event)
    pod = api.pods.pods["train"]
    asyncio.run_coroutine_threadsafe(
        api.pods.stop(pod, "It was not used for 30 min."), api.loop
    ).result(30)
    await until(lambda: bool(told))
    said = "The pod train is stopped: It was not used for 30 min. Start it with: nbgpu start train"
    assert told == ["dead"] and manager.reason == said
    assert await manager.provisioner.poll() == 1
    # what restarts it by hand is told the same, until the pod runs again
    with pytest.raises(PodError, match="nbgpu start train"):
        await manager.restart_kernel()
    await asyncio.to_thread(connect().pod("train").start)
    await manager.restart_kernel()
    client = await client_of(manager)
    assert await value(client, "print(1)") == "1\n" and not manager.reason
    client.stop_channels()


async def test_a_pod_that_was_started_again_between_two_looks_leaves_a_dead_kernel_too(
    manager: Any, api: Api
) -> None:
    told: list[str] = []
    await manager.start_kernel()
    for event in ("dead", "restart"):
        manager.add_restart_callback(lambda event=event: told.append(event), event)
    pod = connect().pod("train")
    await asyncio.to_thread(pod.stop)
    await asyncio.to_thread(pod.start)
    await asyncio.to_thread(pod.run, "x = 1")  # its new kernel is there
    await until(lambda: bool(told))
    assert told == ["dead"] and "train was stopped and started again" in manager.reason
    await manager.restart_kernel()
    client = await client_of(manager)
    assert await value(client, "print(1)") == "1\n" and not manager.reason
    client.stop_channels()


async def test_a_stopped_pod_says_how_it_is_started(specs: Any, api: Api) -> None:
    await asyncio.to_thread(connect().pod("train").stop)
    many = AsyncMultiKernelManager(kernel_spec_manager=specs)
    with pytest.raises(PodError) as failure:
        await many.start_kernel(kernel_name=SPEC)
    assert "The pod train is stopped: You stopped it. Start it with: nbgpu start train" in str(
        failure.value
    )
    await asyncio.to_thread(connect().pod("train").delete, yes=True)
    with pytest.raises(PodError, match="There is no pod train"):
        await many.start_kernel(kernel_name=SPEC)
    api.home.backend_json.unlink()
    with pytest.raises(PodError, match="backend does not run"):
        await many.start_kernel(kernel_name=SPEC)


async def test_two_notebooks_share_the_kernel_and_one_may_leave(specs: Any, api: Api) -> None:
    many = AsyncMultiKernelManager(
        kernel_spec_manager=specs,
        kernel_manager_class="jupyter_client.ioloop.AsyncIOLoopKernelManager",
    )
    one, two = [await many.start_kernel(kernel_name=SPEC) for _ in range(2)]
    first, second = [await client_of(many.get_kernel(k)) for k in (one, two)]
    await value(first, "x = 5")
    assert await value(second, "print(x)") == "5\n"
    first.stop_channels()
    await many.shutdown_kernel(one)
    # the second notebook's manager starts the kernel again, on sockets that nobody has taken away
    await until(lambda: api.pods.pods["train"].generation == 2, 60)
    await until(many.get_kernel(two).is_alive)
    await second.wait_for_ready(timeout=60)
    assert await value(second, "print('x' in globals())") == "False\n"
    second.stop_channels()
    await many.shutdown_all(now=True)


async def test_a_folder_with_a_long_name_is_no_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provisioner = PodProvisioner(pod="train")
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    found = provisioner._lead_to(folder / "k")
    assert len(found) < 60
    provisioner._lead_nowhere()
    assert provisioner._lead_to(folder / "k") == found
    Path(found + "-1").touch()
    assert (folder / "k-1").exists()
    await provisioner.cleanup()
