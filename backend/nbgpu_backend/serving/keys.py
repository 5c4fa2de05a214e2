"""The keys of endpoints, as the data path looks them up: in memory, without a wait.

A key is `nbgpu_` and 32 random bytes. Only its SHA-256 is kept. A slow hash with a salt protects passwords,
which can be guessed; 256 random bits cannot be, however fast the hash is, and a fast one costs a request a
microsecond. The look-up by that hash needs no constant time either: what its duration could tell is about
the hash, and whoever asks cannot steer the hash without knowing a key.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from nbgpu_backend.domain.limits import Allowance, reset_text

MARK = b"nbgpu_"
SHOWN = 12  # characters of a key by which a person knows it again

Headers = list[tuple[bytes, bytes]]


def new_secret() -> str:
    return MARK.decode() + secrets.token_urlsafe(32)


def digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


@dataclass(slots=True, eq=False, kw_only=True)
class Key:
    """What opens one endpoint. Instants are UTC microseconds; `stored_us` is the use that is on the disk."""

    id: str
    endpoint_id: str
    prefix: str
    label: str
    per_minute: int | None
    at_once: int | None
    created_us: int
    allowance: Allowance
    used_us: int | None = None
    stored_us: int | None = None

    def headers(self, now_us: int) -> Headers:
        """What is left of its rate, in the words of OpenAI's API; none where it has no such limit."""
        bucket = self.allowance.bucket
        if bucket is None:
            return []
        return [
            (b"x-ratelimit-limit-requests", b"%d" % bucket.per_minute),
            (b"x-ratelimit-remaining-requests", b"%d" % bucket.remaining(now_us)),
            (b"x-ratelimit-reset-requests", reset_text(bucket.reset_us(now_us)).encode()),
        ]


class Keyring:
    """Every key that is in force."""

    def __init__(self) -> None:
        self._by_hash: dict[bytes, Key] = {}
        self._by_id: dict[str, tuple[bytes, Key]] = {}

    def __iter__(self) -> Iterator[Key]:
        return (key for _, key in self._by_id.values())

    def add(self, hashed: bytes, key: Key) -> None:
        self._by_hash[hashed] = key
        self._by_id[key.id] = hashed, key

    def find(self, given: bytes) -> Key | None:
        return self._by_hash.get(digest(given)) if given.startswith(MARK) else None

    def by_id(self, key_id: str) -> Key | None:
        found = self._by_id.get(key_id)
        return found[1] if found else None

    def remove(self, key_id: str) -> None:
        """It opens nothing from now on; what it has in progress goes on."""
        if (found := self._by_id.pop(key_id, None)) is not None:
            del self._by_hash[found[0]]

    def remove_of(self, endpoint_id: str) -> None:
        for key in list(self):
            if key.endpoint_id == endpoint_id:
                self.remove(key.id)

    # --- jobs count to what a key has at once until their end (serving.target.Holders) ----------------

    def hold(self, key_id: str) -> None:
        if (key := self.by_id(key_id)) is not None:
            key.allowance.hold()

    def let_go(self, key_id: str) -> None:
        if (key := self.by_id(key_id)) is not None:
            key.allowance.leave()
