"""Who asks: the holder of this backend's one token, which opens everything, or of an endpoint's key."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable, Mapping

from nbgpu_backend.clock import Clock
from nbgpu_backend.domain.limits import retry_after_s
from nbgpu_backend.errors import Forbidden, RateLimited, Unauthorized
from nbgpu_backend.serving.exchange import Exchange
from nbgpu_backend.serving.keys import Key, Keyring
from nbgpu_backend.serving.target import Target


class Token:
    """Compared in constant time."""

    def __init__(self, text: str) -> None:
        self._bytes = text.encode()

    def given_in(self, headers: Mapping[bytes, bytes]) -> bool:
        """In the Authorization header, with or without the word Bearer."""
        return self.equals(bearer(headers))

    def password_in(self, headers: Mapping[bytes, bytes]) -> bool:
        """As the password of HTTP's basic authentication, under any user's name."""
        given = headers.get(b"authorization", b"")
        if given[:6].lower() != b"basic ":
            return False
        try:
            pair = base64.b64decode(given[6:].strip(), validate=True)
        except binascii.Error:
            return False
        return self.equals(pair.partition(b":")[2])

    def equals(self, given: bytes) -> bool:
        return hmac.compare_digest(given, self._bytes)


def bearer(headers: Mapping[bytes, bytes]) -> bytes:
    given = headers.get(b"authorization", b"")
    return given[7:] if given[:7].lower() == b"bearer " else given


class Access:
    """`refused(endpoint_id, route)` is told of every request that a key's limit keeps out. `pod_of` gives
    the id of the pod that a token was given to: from there all endpoints can be used."""

    def __init__(
        self,
        token: Token,
        keys: Keyring,
        clock: Clock,
        refused: Callable[[str, str], None],
        pod_of: Callable[[bytes], str | None] = lambda given: None,
    ) -> None:
        self.token = token
        self._keys = keys
        self._clock = clock
        self._refused = refused
        self._pod_of = pod_of

    def of(self, headers: Mapping[bytes, bytes]) -> Key | None:
        """The key that was given; None for the token. Raises Unauthorized."""
        given = bearer(headers)
        if self.token.equals(given):
            return None
        key = self._keys.find(given)
        if key is None and self.pod(headers) is not None:
            return None
        if key is None:
            raise Unauthorized(
                "The API key is missing or wrong.",
                "Use a key of the endpoint (nbgpu key add NAME), the token of "
                "NBGPU_HOME/run/backend.json, or nbgpu.connect().",
            )
        key.used_us = self._clock.now()
        return key

    def opens(self, headers: Mapping[bytes, bytes]) -> bool:
        """Is it the token, or a key that is in force?"""
        if self.token.given_in(headers) or self.finds(headers):
            return True
        return self.pod(headers) is not None

    def pod(self, headers: Mapping[bytes, bytes]) -> str | None:
        """The id of the pod that asks with its own token."""
        given = bearer(headers)
        return self._pod_of(given) if given else None

    def finds(self, headers: Mapping[bytes, bytes]) -> bool:
        """Is it a key that is in force, whatever it opens?"""
        return self._keys.find(bearer(headers)) is not None

    def enter(self, key: Key, exchange: Exchange, route: str) -> None:
        """One more in progress, until `key.allowance.leave()`. Raises RateLimited; then it is none."""
        now_us = int(self._clock.elapsed() * 1e6)
        refusal = key.allowance.enter(now_us)
        exchange.extra = key.headers(now_us)
        if refusal is None:
            return
        self._refused(key.endpoint_id, route)
        if refusal.kind == "rate":
            after = retry_after_s(refusal.retry_us)
            raise RateLimited(
                f"This key may send {key.per_minute} requests a minute, and has sent them.",
                f"Try again in {after} s.",
                retry_after_s=after,
            )
        raise RateLimited(
            f"This key may have {key.at_once} requests and jobs in progress at once, and has them.",
            "Try again when one of them has ended.",
            retry_after_s=retry_after_s(refusal.retry_us),
            code="concurrency_limit_exceeded",
        )


def check_endpoint(key: Key, target: Target | None, name: str) -> None:
    """Raises Forbidden for any other than its own, also for one that is not there: names are not told."""
    if target is None or target.id != key.endpoint_id:
        raise Forbidden(
            f"This key is of another endpoint than '{name}'.",
            f"Use a key of that one: nbgpu key add {name}",
            code="wrong_endpoint",
        )
