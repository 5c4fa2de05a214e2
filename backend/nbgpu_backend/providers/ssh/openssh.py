"""OpenSSH's own client for large files, with our pinned keys and nothing of the user's settings."""

from __future__ import annotations

from pathlib import Path

from nbgpu_backend.providers.ssh.settings import Hop, HostSettings

PROGRAM = "sftp"
TARGET = "nbgpu-host"
OPTIONS = """Host *
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  UpdateHostKeys no
  BatchMode yes
  ConnectTimeout 10
  ServerAliveInterval 5
  ServerAliveCountMax 3
  ForwardAgent no
  Compression no
"""


def batch(
    settings: HostSettings, folder: Path, put: bool, local: str, remote: str, resume: bool
) -> tuple[list[str], bytes]:
    """-> (argv, stdin) that copies one file, fsynced; writes its settings into `folder`."""
    known, config = folder / "known_hosts", folder / "ssh_config"
    hops = [(f"nbgpu-jump-{n}", hop) for n, hop in enumerate(settings.jump)]
    hops.append((TARGET, settings.target))
    pins = [(name, hop.known_hosts.split()) for name, hop in hops]
    _write(known, "".join(f"{name} {' '.join(words[1:3])}\n" for name, words in pins))
    entries = []
    for place, (name, hop) in enumerate(hops):
        entries.append(_entry(name, hop, hops[place - 1][0] if place else None))
    _write(config, "".join(entries) + OPTIONS + f"  UserKnownHostsFile {_quoted(str(known))}\n")
    verb = ("put" if put else "get") + (" -a" if resume else "") + " -f"
    names = (local, remote) if put else (remote, local)
    line = f"{verb} {_word(names[0])} {_word(names[1])}\n"
    return [PROGRAM, "-q", "-F", str(config), "-b", "-", TARGET], line.encode()


def _entry(name: str, hop: Hop, before: str | None) -> str:
    lines = [f"Host {name}", f"HostName {hop.address}", f"Port {hop.port}", f"User {hop.user}"]
    lines.append(f"HostKeyAlias {name}")
    if hop.key_file:
        lines.append(f"IdentityFile {_quoted(str(Path(hop.key_file).expanduser()))}")
    if before:
        lines.append(f"ProxyJump {before}")
    return "\n  ".join(lines) + "\n"


def _quoted(path: str) -> str:
    return '"' + path.replace("%", "%%") + '"'


def _word(path: str) -> str:
    """For a line of sftp: in quotes, where patterns are plain characters."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _write(path: Path, text: str) -> None:
    fresh = path.with_suffix(".tmp")
    fresh.write_text(text)
    fresh.replace(path)
