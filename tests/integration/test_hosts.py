"""Own servers, added as a person adds them: on a command line, against a real SSH server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.pods import PodBackend
from tests.support.ssh_pods import share_engines
from tests.support.sshd import Sshd, keygen, serving
from tests.support.waiting import until


@pytest.fixture
def server(tmp_path: Path, pod_engines: Path) -> Iterator[Sshd]:
    with serving(Sshd(tmp_path / "server")) as found:
        share_engines(found, pod_engines)
        yield found


@pytest.fixture
def home(
    tmp_path: Path, pod_engines: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PodBackend]:
    monkeypatch.setenv("HOME", str(tmp_path))  # nobody's ~/.ssh, for the backend as well
    backend = PodBackend(tmp_path / "home")
    backend.start()
    yield backend
    backend.shutdown(everything=True)


def target(server: Sshd) -> tuple[str, ...]:
    hop = server.hop()
    return f"{hop.user}@{hop.address}:{hop.port}", "--key", str(server.user_key)


def test_a_host_is_added_looked_at_used_and_removed(home: PodBackend, server: Sshd) -> None:
    unasked = home.cli("host", "add", "lab1", *target(server), stdin=-3)
    assert unasked.returncode == 2 and "SHA256:" in unasked.stderr
    shown = unasked.stderr.split("SHA256:")[1].split(".")[0].split()[0]
    added = home.cli("host", "add", "lab1", *target(server), "--fingerprint", f"SHA256:{shown}")
    assert added.returncode == 0, added.stderr
    assert "nbgpu open NAME --on lab1" in added.stdout and "connected" in added.stdout
    listed = home.cli_json("host", "ls")["hosts"]
    assert [(h["name"], h["state"], h["pods"]) for h in listed] == [("lab1", "connected", [])]
    checked = home.cli("host", "check", "lab1").stdout
    assert all(word in checked for word in ("Python", "memory", "disk", "sandbox", "clock"))

    opened = home.cli("open", "far", "--on", "lab1", timeout=120)
    assert opened.returncode == 0, opened.stderr
    assert home.cli("run", "far", "-c", "print(6 * 7)").stdout.startswith("42\n")
    kept = home.cli("host", "rm", "lab1", "--yes")
    assert kept.returncode == 1 and "nbgpu delete far" in kept.stderr
    assert home.cli("delete", "far", "--yes").returncode == 0
    assert home.cli("host", "rm", "lab1", "--yes").returncode == 0
    assert not any(home.home.hosts.iterdir())
    gone = home.cli("open", "far", "--on", "lab1")
    assert gone.returncode == 1 and "nbgpu host add lab1" in gone.stderr


def test_a_key_that_is_not_the_expected_one_is_refused(home: PodBackend, server: Sshd) -> None:
    other = home.cli("host", "add", "lab1", *target(server), "--fingerprint", "SHA256:other")
    assert other.returncode == 2 and "shows another key" in other.stderr
    assert not home.home.hosts.exists() or not any(home.home.hosts.iterdir())


def test_a_host_that_does_not_let_us_in_is_not_kept(
    home: PodBackend, server: Sshd, tmp_path: Path
) -> None:
    where, *_ = target(server)
    stranger = keygen(tmp_path / "stranger")
    refused = home.cli("host", "add", "lab1", where, "--key", str(stranger), "--yes")
    assert refused.returncode == 1, refused.stdout
    assert home.cli_json("host", "ls") == {"hosts": []}
    assert not any(home.home.hosts.iterdir())


def test_a_changed_key_of_a_host_is_told_and_never_trusted(home: PodBackend, server: Sshd) -> None:
    assert home.cli("host", "add", "lab1", *target(server), "--yes").returncode == 0
    port = server.port
    server.stop()
    server.host_key = keygen(server.host_key)
    server.port = port
    server.start()
    changed = home.cli("host", "check", "lab1", timeout=90)
    assert changed.returncode == 1 and "key" in changed.stderr
    opened = home.cli("open", "far", "--on", "lab1", timeout=120)
    assert opened.returncode == 1 and "key" in opened.stderr


def test_typos_are_told(home: PodBackend) -> None:
    nobody = home.cli("host", "show", "lab1")
    assert nobody.returncode == 1 and "There are: none yet" in nobody.stderr
    assert home.cli("host", "add", "lab1").returncode == 2
    assert home.cli("host", "frob").returncode == 2
    away = home.cli("host", "add", "lab1", "127.0.0.1:1", "--yes")
    assert away.returncode == 1 and "127.0.0.1" in away.stderr


def test_the_same_name_is_added_once(home: PodBackend, server: Sshd) -> None:
    where, _, key = target(server)
    asked = {"target": where, "keyFile": key}
    shown = home.http.post("/nbgpu/v1/hosts/contact", json=asked).json()["keys"]
    body = {**asked, "name": "lab1", "fingerprints": [one["fingerprint"] for one in shown]}
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: home.http.post("/nbgpu/v1/hosts", json=body), range(2)))
    assert sorted(answer.status_code for answer in answers) == [201, 409]
    assert [h["name"] for h in home.cli_json("host", "ls")["hosts"]] == ["lab1"]


def test_a_rate_is_given_with_the_host_and_the_link_is_made_again(
    home: PodBackend, server: Sshd
) -> None:
    added = home.cli("host", "add", "lab1", *target(server), "--yes", "--rate", "0.50")
    assert added.returncode == 0, added.stderr
    assert home.cli_json("host", "show", "lab1")["ratePerHour"] == "0.5"
    assert "rate.lab1" in home.cli("settings").stdout
    assert home.cli_json("host", "reconnect", "lab1")["state"] == "connected"


def test_pods_go_where_use_says_and_stay_there(home: PodBackend, server: Sshd) -> None:
    assert home.cli("use", "lab1").returncode == 1
    assert home.cli("host", "add", "lab1", *target(server), "--yes").returncode == 0
    assert home.cli_json("use", "lab1")["place"] == "lab1"
    opened = home.cli("open", "far", timeout=120)
    assert opened.returncode == 0, opened.stderr
    assert home.cli_json("host", "show", "lab1")["pods"] == ["far"]
    assert home.cli_json("use", "local")["place"] == "local"
    again = home.cli("open", "far", timeout=120)
    assert again.returncode == 0, again.stderr
    assert home.cli_json("use", "lab1")["place"] == "lab1"
    assert home.cli("delete", "far", "--yes").returncode == 0
    assert home.cli("host", "rm", "lab1", "--yes").returncode == 0
    assert home.cli_json("settings")["place"] == "local"


def test_nothing_behind_a_jump_host_is_asked_for_before_its_key_is_accepted(
    home: PodBackend, server: Sshd, tmp_path: Path
) -> None:
    hop = server.hop()
    with serving(Sshd(tmp_path / "jump")) as jump:
        (tmp_path / ".ssh").mkdir()
        (tmp_path / ".ssh" / "config").write_text(
            f"Host door\n HostName 127.0.0.1\n Port {jump.port}\n User {hop.user}\n"
            f" IdentityFile {jump.user_key}\n"
            f"Host inner\n HostName 127.0.0.1\n Port {server.port}\n User {hop.user}\n"
            f" IdentityFile {server.user_key}\n ProxyJump door\n"
        )
        contact, asked = "/nbgpu/v1/hosts/contact", {"target": "inner"}
        first = home.http.post(contact, json=asked).json()
        assert "keys" in first, first
        assert first["more"] and len(first["keys"]) == 1
        assert "Accepted publickey" not in jump.log()
        wrong = home.http.post(contact, json={**asked, "fingerprints": ["SHA256:no"]}).json()
        assert wrong["more"] and len(wrong["keys"]) == 1
        added = home.cli("host", "add", "lab1", "inner", "--yes")
        assert added.returncode == 0, added.stderr
        through = (*target(server), "--jump", "door", "--yes")
        added = home.cli("host", "add", "lab2", *through)
        assert added.returncode == 0, added.stderr
        assert jump.log().count("Accepted publickey") >= 4
        assert home.cli("host", "rm", "lab1", "--yes").returncode == 0


def test_who_watches_hears_how_a_host_is(home: PodBackend, server: Sshd) -> None:
    def seen() -> dict[str, Any]:
        found: dict[str, Any] = home.get("/nbgpu/v1/changes")["summary"]["hosts"][0]
        return found

    assert home.cli("host", "add", "lab1", *target(server), "--yes").returncode == 0
    assert (seen()["state"], seen()["priced"]) == ("connected", False)
    with home.client() as http, http.stream("GET", "/nbgpu/v1/events", timeout=30) as events:
        lines = events.iter_lines()
        assert next(lines) == ": connected"
        server.stop()
        until(lambda: next(lines) == "event: state")
        beat = next(lines)
    assert json.loads(beat.removeprefix("data:"))["endpointIds"] == ["lab1"]
    lost = until(lambda: found if (found := seen())["state"] == "unreachable" else None)
    assert str(server.port) in lost["sentence"] and lost["nextStep"]
    assert lost["facts"]["cpus"] > 0  # as it was last heard
    assert home.cli("host", "rm", "lab1", "--yes").returncode == 0
    assert home.get("/nbgpu/v1/changes")["summary"]["hosts"] == []


def test_a_host_whose_settings_cannot_be_read_is_told_and_removed(
    home: PodBackend, server: Sshd
) -> None:
    assert home.cli("host", "add", "lab1", *target(server), "--yes").returncode == 0
    (home.home.hosts / "lab1" / "host.json").write_text("{")
    home.shutdown(everything=False)
    home.start()
    (row,) = home.get("/nbgpu/v1/changes")["summary"]["hosts"]
    assert row["state"] == "stopped" and "cannot be read" in row["sentence"]
    assert home.cli("host", "rm", "lab1", "--yes").returncode == 0
