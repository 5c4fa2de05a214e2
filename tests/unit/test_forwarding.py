"""What a load balancer passes on, and how a request names its worker."""

from __future__ import annotations

import pytest
from nbgpu_backend.errors import BadRequest
from nbgpu_backend.serving.affinity import Affinity, read
from nbgpu_backend.serving.forwarding import for_client, for_worker, has_body, target

Pairs = list[tuple[bytes, bytes]]


def passed(*headers: tuple[bytes, bytes], **options: object) -> list[tuple[str, str]]:
    known: dict[str, object] = {
        "bearer_is_ours": False, "worker_key": "k", "client": "1.2.3.4", "scheme": "http",
    }  # fmt: skip
    return for_worker(list(headers), **{**known, **options})  # type: ignore[arg-type]


def test_hop_by_hop_headers_and_those_that_connection_names_end_here() -> None:
    found = passed(
        (b"connection", b"close, X-Mine"), (b"connection", b"x-too"), (b"x-mine", b"1"),
        (b"x-too", b"1"), (b"keep-alive", b"5"), (b"te", b"trailers"), (b"upgrade", b"h2c"),
        (b"trailer", b"x"), (b"proxy-authorization", b"x"), (b"accept", b"*/*"),
    )  # fmt: skip
    assert [name for name, _ in found if not name.startswith("X-")] == ["accept"]


def test_repeated_headers_stay_repeated_and_in_order() -> None:
    found = passed((b"cookie", b"a=1"), (b"x", b"1"), (b"cookie", b"b=2"))
    assert found[:3] == [("cookie", "a=1"), ("x", "1"), ("cookie", "b=2")]


def test_chunks_tell_the_length_and_a_length_beside_them_is_dropped() -> None:
    found = dict(passed((b"transfer-encoding", b"chunked"), (b"content-length", b"5")))
    assert "content-length" not in found and "transfer-encoding" not in found
    assert dict(passed((b"content-length", b"5")))["content-length"] == "5"


def test_our_own_token_is_dropped_and_an_apps_authorization_passes() -> None:
    bearer = (b"authorization", b"Bearer t")
    assert "authorization" not in dict(passed(bearer, bearer_is_ours=True))
    assert dict(passed(bearer, (b"x-nbgpu-key", b"t")))["authorization"] == "Bearer t"
    assert "x-nbgpu-key" not in dict(passed((b"x-nbgpu-key", b"t")))


def test_a_worker_knows_its_gateway_by_its_key_whatever_a_client_says() -> None:
    found = passed((b"x-nbgpu-worker-key", b"forged"), worker_key="real")
    assert [v for n, v in found if n.lower() == "x-nbgpu-worker-key"] == ["real"]
    assert not [n for n, _ in passed(worker_key=None) if n.lower() == "x-nbgpu-worker-key"]


def test_forwarding_headers_are_added_to_those_of_proxies_before() -> None:
    found = dict(
        passed(
            (b"host", b"here"), (b"x-forwarded-for", b"9.9.9.9"), (b"x-forwarded-for", b"8.8.8.8"),
            (b"x-forwarded-prefix", b"/outer/"), prefix="/lb/site", scheme="ws",
        )
    )  # fmt: skip
    assert found["X-Forwarded-For"] == "9.9.9.9, 8.8.8.8, 1.2.3.4"
    assert found["X-Forwarded-Host"] == "here" and found["X-Forwarded-Proto"] == "http"
    assert found["X-Forwarded-Prefix"] == "/outer/lb/site"
    proxied = dict(passed((b"x-forwarded-proto", b"https"), (b"x-forwarded-host", b"there")))
    assert proxied["X-Forwarded-Proto"] == "https" and proxied["X-Forwarded-Host"] == "there"


def test_the_handshake_of_a_websocket_is_not_passed_on() -> None:
    found = dict(passed((b"sec-websocket-key", b"x"), (b"origin", b"http://a"), socket=True))
    assert "sec-websocket-key" not in found and found["origin"] == "http://a"


def test_bytes_beyond_ascii_pass_as_utf_8() -> None:
    assert ("x", "é") in passed((b"x", "é".encode()))
    assert ("x", "é") in passed((b"x", "é".encode("latin-1")))


def test_an_answer_names_its_worker_and_no_header_of_it_ends_too_early() -> None:
    raw: Pairs = [
        (b"Set-Cookie", b"a"), (b"Set-Cookie", b"b"), (b"Connection", b"X-Hop"), (b"X-Hop", b"1"),
        (b"Transfer-Encoding", b"chunked"), (b"X-Runpod-Worker-Id", b"forged"), (b"Bad Name", b"1"),
        (b"X-Bad", b"a\rb"), (b"Content-Length", b"3"),
    ]  # fmt: skip
    assert for_client(200, raw, "w-1") == [
        (b"set-cookie", b"a"), (b"set-cookie", b"b"), (b"content-length", b"3"),
        (b"x-runpod-worker-id", b"w-1"),
    ]  # fmt: skip
    assert b"content-length" not in dict(for_client(304, raw, "w-1"))


def test_a_path_passes_as_it_came_but_for_what_no_url_holds() -> None:
    assert target(b"/a%2Fb//../c", b"q=%20&r=+") == "/a%2Fb//../c?q=%20&r=+"
    assert target(b"/", b"") == "/"
    assert target(b"/\xc3\xa9 \r\n", b"") == "/%C3%A9%20%0D%0A"


def test_a_body_is_told_by_its_headers() -> None:
    assert has_body([(b"content-length", b"1")]) and has_body([(b"transfer-encoding", b"chunked")])
    assert not has_body([(b"content-length", b"0")]) and not has_body([])


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, None),
        (b"", None),
        (b" w-1 ", Affinity("w-1")),
        (b"strict w-1", Affinity("w-1", strict=True)),
        (b"strict-resume  w-1", Affinity("w-1", strict=True, resume=True)),
    ],
)
def test_a_request_names_its_worker(value: bytes | None, found: Affinity | None) -> None:
    assert read(value) == found


@pytest.mark.parametrize("value", [b"strict", b"strict-resume", b"soft w-1", b"strict w-1 w-2"])
def test_what_names_no_worker_is_refused(value: bytes) -> None:
    with pytest.raises(BadRequest, match="is not understood"):
        read(value)
