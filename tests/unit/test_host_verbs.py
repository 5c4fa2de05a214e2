"""Hosts as the verb takes them and as they are shown."""

from __future__ import annotations

from typing import Any

import pytest
from nbgpu.errors import UsageProblem
from nbgpu.results.hosts import HostListing, HostView
from nbgpu_backend.schema.hosts import Finding, Host, HostFacts, HostList

from tests.unit.test_results import EVIL, check
from tests.unit.test_verbs import call


def host(**more: Any) -> Host:
    facts = HostFacts(
        hostname=EVIL, python="3.11", cpus=4, memory=1 << 33, memory_available=1 << 32,
        disk_free=1 << 34, gpus=["L4"], clock_offset_ms=1.0,
    )  # fmt: skip
    fields: dict[str, Any] = {
        "name": "lab1", "user": "ada", "address": EVIL, "port": 2222, "fingerprint": "SHA256:abc",
        "state": "connected", "since_us": 1_700_000_000_000_000, "sentence": "", "facts": facts,
        "pods": ["far"], "rate_per_hour": "0.5",
    }  # fmt: skip
    return Host(**fields | more)


def test_each_is_escaped_and_stands_alone() -> None:
    lacking = Finding(what="sandbox", good=False, text="none", advice="apt install bubblewrap")
    listing = HostListing(HostList(hosts=[host(), host(name="lab2", since_us=None, facts=None)]))
    view = HostView(host(findings=[lacking]))
    for found in (listing, view, HostView(host(facts=None)), HostListing(HostList(hosts=[]))):
        check(found)
    assert list(listing) == ["lab1", "lab2"] and "far" in listing.text() and "L4" in listing.text()
    assert "apt install bubblewrap" in view.text() and "SHA256:abc" in view.text()
    assert "host add lab1" in HostListing(HostList(hosts=[])).text()


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (("frob",), {}, "cannot frob"),
        (("chek", "lab1"), {}, "check"),
        (("show",), {}, "Which host?"),
        (("add", "lab1"), {}, "Where is it?"),
        (("ls",), {"rate": "1"}, "--rate"),
        (("check", "lab1"), {"jump": "door"}, "--jump"),
        (("add", "lab1", "ada@x"), {"rate": "-1"}, "no amount"),
        (("add", "lab1", "ada@x"), {"rate": "cheap"}, "no amount"),
    ],
)
def test_what_makes_no_sense_is_told_before_anything_is_sent(
    arguments: tuple[str, ...], options: dict[str, str], said: str
) -> None:
    with pytest.raises(UsageProblem, match=said):
        call("host", None, *arguments, **options)
