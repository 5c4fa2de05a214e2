"""What `user@host:port` means, what host.json holds, and how OpenSSH's client is told the same."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from nbgpu_backend.errors import BadRequest, DiskError, NotFound
from nbgpu_backend.providers.ssh import contact, openssh
from nbgpu_backend.providers.ssh.errors import (
    LINK_ERRORS,
    AuthFailed,
    HostFailed,
    HostUnreachable,
    PassphraseNeeded,
    from_line,
    to_line,
)
from nbgpu_backend.providers.ssh.loader import COMMAND, INSTALL, Code
from nbgpu_backend.providers.ssh.settings import Hop, HostSettings, Times

KEY = base64.b64encode(b"\0\0\0\x0bssh-ed25519" + bytes(36)).decode()
CONFIG = """
Host gpu
  HostName 10.0.0.7
  Port 2222
  User ann
  IdentityFile {key}
  ProxyJump bob@outer:22,inner
Host inner
  HostName 10.0.0.1
  ProxyJump never-used
Host round
  ProxyJump round
Host odd
  ProxyCommand nc %h %p
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "key").write_text("")
    (tmp_path / "config").write_text(CONFIG.format(key=tmp_path / "key"))
    return tmp_path / "config"


@pytest.mark.parametrize(
    ("target", "address", "user", "port"),
    [
        ("ann@box:22", "box", "ann", 22),
        ("ann@10.0.0.1:2200", "10.0.0.1", "ann", 2200),
        ("ann@[::1]:2200", "::1", "ann", 2200),
        ("ssh://ann@box:7/", "box", "ann", 7),
    ],
)
def test_a_target_names_user_host_and_port(target: str, address: str, user: str, port: int) -> None:
    hop = contact.resolve(target, ssh_config=None).target
    assert (hop.address, hop.user, hop.port) == (address, user, port)


@pytest.mark.parametrize("target", ["", "a b", "ann@", "box:x", "box:22:22", "a@b@c"])
def test_what_is_no_target_is_said_so(target: str) -> None:
    with pytest.raises(BadRequest, match="user@host:port"):
        contact.resolve(target, ssh_config=None)


def test_a_name_of_the_ssh_config_brings_its_settings(config: Path) -> None:
    found = contact.resolve("gpu", ssh_config=config)
    assert found.target == Hop("10.0.0.7", "ann", 2222, str(config.with_name("key")))
    assert (found.jump[0].user, found.jump[0].address) == ("bob", "outer")
    assert [hop.address for hop in found.jump] == ["outer", "10.0.0.1"]
    assert contact.resolve("eve@gpu:1", ssh_config=config).target.user == "eve"


def test_what_we_cannot_follow_in_the_ssh_config_is_said_so(config: Path) -> None:
    with pytest.raises(BadRequest, match="circle"):
        contact.resolve("round", ssh_config=config)
    with pytest.raises(BadRequest, match="ProxyCommand"):
        contact.resolve("odd", ssh_config=config)


def test_settings_survive_being_written_and_read(tmp_path: Path) -> None:
    jump = Hop("outer", "bob", known_hosts=f"outer ssh-ed25519 {KEY}")
    target = Hop("10.0.0.7", "ann", 2222, "/k", f"[10.0.0.7]:2222 ssh-ed25519 {KEY} a comment")
    settings = HostSettings("lab1", target, (jump,), {"x.py": "/x.py"}, times=Times(idle_s=3))
    (tmp_path / "host.json").write_text(json.dumps(settings.to_json()))
    assert HostSettings.load(tmp_path) == settings
    assert settings.to_json()["fingerprint"].startswith("SHA256:")
    assert target.pinned == ("ssh-ed25519", base64.b64decode(KEY))
    assert replace(target, known_hosts="10.0.0.7 ssh-ed25519 $$$").pinned is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"name": "x"}', '{"name": 1, "times": {"x": 1}}']
)
def test_settings_that_are_broken_are_said_so(tmp_path: Path, text: str) -> None:
    (tmp_path / "host.json").write_text(text)
    with pytest.raises(BadRequest, match="cannot be read"):
        HostSettings.load(tmp_path)


def test_errors_keep_class_sentence_and_next_step_over_the_socket() -> None:
    for kind in LINK_ERRORS.values():
        error = from_line(json.loads(json.dumps(to_line(kind("What.", "Next.")))), "box")
        assert type(error) is kind and (error.what, error.next_step) == ("What.", "Next.")
    assert issubclass(PassphraseNeeded, AuthFailed) and AuthFailed.status == 401
    assert HostUnreachable.status == 503
    told = to_line(NotFound("Gone.", "Look."))
    assert isinstance(from_line(told, "box"), NotFound)


def test_what_the_host_refuses_names_the_host() -> None:
    disk = from_line({"error": "/x: No space left on device", "kind": "disk"}, "box")
    assert isinstance(disk, DiskError) and disk.what.startswith("box: /x: No space")
    other = from_line({"error": "never heard of", "kind": "strange"}, "box")
    assert isinstance(other, HostFailed) and other.code == "strange"


def test_the_command_line_is_one_that_every_shell_takes() -> None:
    command = COMMAND % "python3"
    assert command.count("'") == 2 and not set(command) & set("\\!`$\n")
    assert len(command) < 255
    compile(INSTALL, "install", "exec")


def test_code_is_named_by_what_is_in_it(tmp_path: Path) -> None:
    extra = tmp_path / "agent.py"
    extra.write_text("1")
    target = Hop("h", "u")
    first = Code.of(HostSettings("box", target, code={"agent.py": str(extra)}))
    assert set(first.files) == {"host.py", "shim.py", "agent.py"}
    extra.write_text("2")
    assert (
        Code.of(HostSettings("box", target, code={"agent.py": str(extra)})).digest != first.digest
    )
    with pytest.raises(BadRequest):
        Code.of(HostSettings("box", target, code={"../x": str(extra)}))


@pytest.mark.skipif(shutil.which("ssh") is None, reason="no OpenSSH client is installed")
def test_openssh_is_told_the_same_keys_and_jumps(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    jump = Hop("outer", "bob", 23, known_hosts=f"outer ssh-ed25519 {KEY}")
    target = Hop("10.0.0.7", "ann", 2222, str(tmp_path / "k"), f"10.0.0.7 ssh-ed25519 {KEY}")
    settings = HostSettings("lab1", target, (jump,))
    argv, batch = openssh.batch(settings, folder, True, '/a "b"', "/c d", True)
    assert batch == b'put -a -f "/a \\"b\\"" "/c d"\n'
    said = subprocess.run(
        ["ssh", "-G", *argv[argv.index("-F") : argv.index("-F") + 2], openssh.TARGET],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for line in (
        "hostname 10.0.0.7", "port 2222", "user ann", "proxyjump nbgpu-jump-0",
        "stricthostkeychecking true", f"identityfile {tmp_path / 'k'}",
        f"userknownhostsfile {folder / 'known_hosts'}", "hostkeyalias nbgpu-host",
    ):  # fmt: skip
        assert line in said, line
    found = subprocess.run(
        ["ssh-keygen", "-F", openssh.TARGET, "-f", str(folder / "known_hosts")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert KEY in found.stdout
