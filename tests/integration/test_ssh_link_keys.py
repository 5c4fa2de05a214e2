"""Who may log in, which host answers, and what its login shell is like: real servers on loopback."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from nbgpu_backend.errors import NbgpuError
from nbgpu_backend.providers.ssh import contact
from nbgpu_backend.providers.ssh.errors import (
    AuthFailed,
    HostKeyChanged,
    HostKeyUnknown,
    HostUnreachable,
    LinkCut,
    NoPython,
    PassphraseNeeded,
)
from nbgpu_backend.providers.ssh.link import Link
from nbgpu_backend.providers.ssh.settings import HostSettings

from tests.support.sshd import (
    QUICK,
    Sshd,
    free_port,
    keygen,
    linked,
    needs_sshd,
    serving,
    write_settings,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="hosts run Linux")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    needs_sshd()
    with serving(Sshd(tmp_path_factory.mktemp("ssh") / "server")) as made:
        yield made


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the keys nor the agent of whoever runs the tests."""
    (tmp_path / "me").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


async def refusal(folder: Path, settings: HostSettings) -> NbgpuError:
    """What a call fails with; twice, and the second time at once where it is final."""
    async with linked(folder, settings) as link:
        with pytest.raises(NbgpuError) as first:
            await link.call({"op": "hello"}, patience_s=5)
        status = await link.status()
        assert status["kind"] == first.value.code and status["sentence"] == first.value.what
        if status["state"] == "refused":
            tries = status["since_us"]
            with pytest.raises(type(first.value)):
                await link.call({"op": "hello"}, patience_s=5)
            assert (await link.status())["since_us"] == tries  # not tried again
        return first.value


async def test_a_host_whose_key_is_not_pinned_is_refused_and_its_key_told(
    server: Sshd, tmp_path: Path
) -> None:
    unpinned = server.settings(target=server.hop(known_hosts=""))
    error = await refusal(tmp_path, unpinned)
    assert isinstance(error, HostKeyUnknown)
    printed = subprocess.run(
        ["ssh-keygen", "-lf", str(server.host_key)], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    assert printed in error.what


async def test_the_key_a_host_shows_can_be_pinned_before_anything_is_said(server: Sshd) -> None:
    kind, printed, line = await asyncio.to_thread(
        contact.fingerprint, server.address, server.port, times=QUICK
    )
    assert kind == "ssh-ed25519" and printed.startswith("SHA256:")
    assert line == server.pinned


async def test_a_changed_host_key_is_a_conflict_until_it_is_pinned_anew(
    server: Sshd, tmp_path: Path
) -> None:
    other = keygen(tmp_path / "other").with_name("other.pub").read_text()
    changed = server.settings(target=server.hop(known_hosts="host " + other))
    error = await refusal(tmp_path, changed)
    assert isinstance(error, HostKeyChanged) and error.status == 409
    place = write_settings(tmp_path, changed)
    async with linked(tmp_path, changed) as link:
        with pytest.raises(HostKeyChanged):
            await link.hello()
        write_settings(tmp_path, server.settings())
        assert (await link.reconnect(wait_s=20))["state"] == "connected"
        assert (await link.hello())["uid"] == os.getuid()
    assert place.exists()


async def test_a_host_that_lets_nobody_in_for_a_while_is_connected_again_by_itself(
    server: Sshd, tmp_path: Path
) -> None:
    """As where a home or a directory of accounts is away."""
    keys = server.root / "authorized_keys"
    before = keys.read_text()
    keys.write_text("")
    settings = server.settings(times=replace(QUICK, refused_s=0.3))
    try:
        async with linked(tmp_path, settings) as link:
            with pytest.raises(AuthFailed):
                await link.hello()
            keys.write_text(before)
            await become(link, "connected")
    finally:
        keys.write_text(before)


@pytest.mark.parametrize("after", range(1, 10))
async def test_a_connection_that_breaks_while_it_logs_in_is_no_refusal(
    server: Sshd, tmp_path: Path, after: int
) -> None:
    """`after` so many pieces from us the first one is cut."""
    pieces, cut = 0, False

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection(server.address, server.port)

        async def copy(a: asyncio.StreamReader, b: asyncio.StreamWriter, ours: bool) -> None:
            nonlocal pieces, cut
            while data := await a.read(1 << 16):
                pieces += ours
                if pieces > after and not cut:
                    cut = True
                    break
                b.write(data)
            for end in (writer, forth):
                end.close()

        await asyncio.gather(
            copy(reader, forth, True), copy(back, writer, False), return_exceptions=True
        )

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    async with linked(tmp_path, server.settings(target=server.hop(port=port))) as link:
        with suppress(LinkCut):  # it was cut a little later than meant
            await link.call({"op": "hello", "tools": False}, patience_s=20)
        log = (link.folder / "log").read_text()
    proxy.close()
    assert cut and "refused" not in log, log


async def become(link: Link, state: str) -> None:
    while (await link.status())["state"] != state:
        await asyncio.sleep(0.05)


async def test_a_host_with_keys_of_other_types_is_known_by_the_pinned_one(
    server: Sshd, tmp_path: Path
) -> None:
    rsa = keygen(tmp_path / "rsa", "rsa")
    with serving(Sshd(tmp_path / "two", more=f"HostKey {rsa}")) as two:
        pinned = two.hop(known_hosts="host " + rsa.with_name("rsa.pub").read_text())
        async with linked(tmp_path, two.settings(target=pinned)) as link:
            assert (await link.hello())["root"]


async def test_a_key_that_is_not_let_in_is_said_so(server: Sshd, tmp_path: Path) -> None:
    wrong = keygen(tmp_path / "wrong")
    error = await refusal(tmp_path, server.settings(target=server.hop(key_file=str(wrong))))
    assert isinstance(error, AuthFailed) and "ssh-copy-id" in error.next_step
    gone = str(tmp_path / "gone")
    error = await refusal(tmp_path, server.settings(target=server.hop(key_file=gone)))
    assert isinstance(error, AuthFailed) and gone in error.what
    error = await refusal(tmp_path, server.settings(target=server.hop(key_file=None)))
    assert isinstance(error, AuthFailed) and "no key" in error.what


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
async def test_a_key_with_a_passphrase_needs_an_agent_and_works_with_one(
    server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    locked = keygen(tmp_path / "locked", kind, "secret words")
    keys = server.root / "authorized_keys"
    with keys.open("a") as file:
        file.write(locked.with_name("locked.pub").read_text())
    settings = server.settings(target=server.hop(key_file=str(locked)))
    error = await refusal(tmp_path, settings)
    assert isinstance(error, PassphraseNeeded) and error.next_step.startswith("Type `ssh-add")
    sock = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(sock)], stdout=subprocess.DEVNULL)
    try:
        ask = tmp_path / "ask"
        ask.write_text("#!/bin/sh\necho secret words\n")
        ask.chmod(0o700)
        async with linked(tmp_path, settings) as link:
            with pytest.raises(PassphraseNeeded):
                await link.hello()
            monkeypatch.setenv("SSH_AUTH_SOCK", str(sock))
            env = {**os.environ, "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"}
            add = ["ssh-add", "-q", str(locked)]
            await asyncio.to_thread(
                subprocess.run, add, env=env, check=True, stdin=subprocess.DEVNULL
            )
            # the tunnel was started without an agent, and is told of it
            assert (await link.reconnect(wait_s=20))["state"] == "connected"
    finally:
        agent.terminate()
        agent.wait()


async def test_nobody_at_the_port_is_unreachable_and_found_once_there_is_one(
    tmp_path: Path,
) -> None:
    needs_sshd()
    server = Sshd(tmp_path / "late", port=free_port())
    try:
        async with linked(tmp_path, server.settings()) as link:
            with pytest.raises(HostUnreachable, match="refused"):
                await link.call({"op": "hello"}, patience_s=0.5)
            waiting = asyncio.create_task(link.call({"op": "hello"}, patience_s=30))
            await asyncio.to_thread(server.start)
            assert (await waiting)["uid"] == os.getuid()
    finally:
        server.stop()


async def test_a_name_that_is_unknown_is_said_so(server: Sshd, tmp_path: Path) -> None:
    nowhere = server.hop(address="no-such-host.invalid")
    error = await refusal(tmp_path, server.settings(target=nowhere))
    assert isinstance(error, HostUnreachable) and "no-such-host.invalid" in error.what


# login shells


NOISE = """
echo "Welcome to $(hostname)!"
echo '=nbgpu-host' '{"error": 1}'
head -c 300000 /dev/zero | tr '\\0' '#'
echo complaint >&2
sleep 1
cd /
"""


async def test_what_a_login_shell_says_and_how_slow_it_is_does_not_matter(
    server: Sshd, tmp_path: Path
) -> None:
    with serving(Sshd(tmp_path / "noisy")) as noisy:
        (noisy.home / ".bashrc").write_text(NOISE)
        (noisy.home / ".ssh").mkdir()
        async with linked(tmp_path / "h", noisy.settings()) as link:
            assert (await link.call({"op": "hello"}, patience_s=30))["uid"] == os.getuid()


@pytest.mark.parametrize("shell", ["dash", "fish", "tcsh", "zsh"])
async def test_other_login_shells_are_fine(tmp_path: Path, shell: str) -> None:
    needs_sshd()
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    with serving(strange(tmp_path, f'exec {path} -c "$SSH_ORIGINAL_COMMAND"')) as server:
        async with linked(tmp_path / "h", server.settings()) as link:
            assert (await link.call({"op": "hello"}, patience_s=30))["uid"] == os.getuid()


# Runs one plain command, and knows no variables, no exec, no lists: words, and both kinds of quotes.
PLAIN_SHELL = """
import os, shlex, sys
words = shlex.split(os.environ["SSH_ORIGINAL_COMMAND"])
os.execvp(words[0], [os.path.expanduser(word) for word in words])
"""


async def test_a_shell_that_only_runs_a_plain_command_is_fine(tmp_path: Path) -> None:
    needs_sshd()
    plain = tmp_path / "plain.py"
    plain.write_text(PLAIN_SHELL)
    with serving(strange(tmp_path, f"exec {sys.executable} {plain}")) as server:
        async with linked(tmp_path / "h", server.settings()) as link:
            assert (await link.call({"op": "hello"}, patience_s=30))["uid"] == os.getuid()


def strange(tmp_path: Path, script: str) -> Sshd:
    """A server whose commands are run by this script, in sh."""
    shell = tmp_path / "strange-shell"
    shell.write_text(f"#!/bin/sh\n{script}\n")
    shell.chmod(0o755)
    return Sshd(tmp_path / "strange", more=f"ForceCommand {shell}")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ('PATH=/nowhere; eval "$SSH_ORIGINAL_COMMAND"', "not found"),
        ("echo This account is closed. >&2; exit 1", "This account is closed"),
        ("printf =nbgpu-loader-1=3.6=; cat >/dev/null", "Python 3.6"),
    ],
)
async def test_a_host_without_a_python_that_answers_is_said_so(
    tmp_path: Path, script: str, said: str
) -> None:
    needs_sshd()
    with serving(strange(tmp_path, script)) as server:
        error = await refusal(tmp_path / "h", server.settings())
        assert isinstance(error, NoPython) and said in error.what, error
        assert "Python" in error.what or "python3" in error.what


async def test_a_home_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    needs_sshd()
    with serving(Sshd(tmp_path / "full")) as server:
        server.nbgpu.write_text("a file where the folder should be")
        error = await refusal(tmp_path / "h", server.settings())
        assert error.code == "disk" and ".nbgpu" in error.what


# few sessions


async def test_two_sessions_are_enough(tmp_path: Path) -> None:
    needs_sshd()
    with serving(Sshd(tmp_path / "two", more="MaxSessions 2")) as server:
        files = [tmp_path / f"f{number}" for number in range(6)]
        for file in files:
            file.write_bytes(os.urandom(200_000))
        async with linked(tmp_path / "h", server.settings()) as link:
            async with asyncio.timeout(60):
                await asyncio.gather(*(link.put(file, file.name) for file in files))
                assert (await link.hello())["uid"] == os.getuid()
        assert all((server.nbgpu / f.name).read_bytes() == f.read_bytes() for f in files)


async def test_a_server_that_forwards_no_ports_is_reached_through_the_program(
    tmp_path: Path,
) -> None:
    needs_sshd()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"got " + await reader.readline())
        writer.close()

    with serving(Sshd(tmp_path / "no", more="AllowTcpForwarding no")) as server:
        listening = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with listening, linked(tmp_path / "h", server.settings()) as link:
            port = listening.sockets[0].getsockname()[1]
            reader, writer = await link.connect(port=port)
            writer.write(b"it\n")
            assert await reader.read() == b"got it\n"
            writer.close()


async def test_a_jump_host_leads_to_one_behind_it(server: Sshd, tmp_path: Path) -> None:
    with serving(Sshd(tmp_path / "jump")) as jump:
        settings = server.settings(jump=(jump.hop(),))
        async with linked(tmp_path / "h", settings) as link:
            assert (await link.hello())["root"] == os.path.realpath(server.nbgpu)
        assert jump.programs() == []
        found = await asyncio.to_thread(
            contact.fingerprint, server.address, server.port, jump=[jump.hop()], times=QUICK
        )
        assert found[2] == server.pinned
        unpinned = (jump.hop(known_hosts=""),)
        error = await refusal(tmp_path / "h", server.settings(jump=unpinned))
        assert isinstance(error, HostKeyUnknown) and str(jump.port) in error.what


# its own life


async def test_a_tunnel_without_clients_ends_and_leaves_what_runs(
    server: Sshd, tmp_path: Path
) -> None:
    settings = server.settings(times=replace(QUICK, idle_s=0.5))
    async with linked(tmp_path / "h", settings) as link:
        name = "instances/nbgpu-t-idle-1"
        spec = {"argv": ["sleep", "100"], "env": {"PATH": "/bin"}, "generation": 1, "ttl_s": 60}
        made = await link.call({"op": "launch", "folder": name, "document": spec})
        assert made["code"] == 0
        async with asyncio.timeout(10):
            while (await link.status(start=False))["state"] != "stopped":
                await asyncio.sleep(0.7)  # asking keeps it alive
        seen = await Link(tmp_path / "h/box").call({"op": "look", "folder": name})
        assert seen["state"] == "running"
        await link.call({"op": "ask", "folder": name, "request": {"op": "stop", "grace_s": 0}})
