"""The one token of this backend, compared in constant time."""

from __future__ import annotations

import hmac
from collections.abc import Mapping


class Token:
    def __init__(self, text: str) -> None:
        self._bytes = text.encode()

    def given_in(self, headers: Mapping[bytes, bytes]) -> bool:
        """In the Authorization header, with or without the word Bearer."""
        given = headers.get(b"authorization", b"")
        if given[:7].lower() == b"bearer ":
            given = given[7:]
        return hmac.compare_digest(given, self._bytes)
