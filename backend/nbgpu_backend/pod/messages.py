"""Jupyter's messages on the wire, as far as a kernel's client needs them (protocol 5.3).

The kernel is this pod's own, on sockets that only its user reaches: what it sends is not verified.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

    Json = Dict[str, Any]

DELIMITER = b"<IDS|MSG>"


def dump(value: Any) -> bytes:
    """JSON on one line."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return json.dumps(value, separators=(",", ":")).encode()


class Author:
    """Makes signed requests."""

    def __init__(self, key: str) -> None:
        self.key = key.encode()
        self.session = os.urandom(16).hex()
        self.count = 0

    def name(self) -> str:
        """A new message's id."""
        self.count += 1
        return "nbgpu-%s-%d" % (self.session, self.count)

    def message(
        self, kind: str, content: Json, name: str, parent: Optional[Json] = None
    ) -> List[bytes]:
        now = datetime.datetime.now(datetime.timezone.utc)
        header = {
            "msg_id": name,
            "msg_type": kind,
            "username": "nbgpu",
            "session": self.session,
            "date": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "version": "5.3",
        }
        frames = [dump(header), dump(parent or {}), b"{}", dump(content)]
        digest = hmac.new(self.key, digestmod=hashlib.sha256)
        for frame in frames:
            digest.update(frame)
        return [DELIMITER, digest.hexdigest().encode(), *frames]


def split(frames: List[bytes]) -> Tuple[bytes, bytes, bytes, bytes, List[bytes]]:
    """(header, parent header, metadata, content, buffers) of a message. Raises ValueError."""
    at = frames.index(DELIMITER)
    if len(frames) < at + 6:
        raise ValueError("a message of %d frames" % len(frames))
    header, parent, metadata, content = frames[at + 2 : at + 6]
    return header, parent, metadata, content, frames[at + 6 :]


def read(frames: List[bytes]) -> Tuple[Json, Json, Json]:
    """(header, parent header, content) of a message. Raises ValueError."""
    header, parent, _, content, _ = split(frames)
    found = [json.loads(frame.decode("utf-8", "replace")) for frame in (header, parent, content)]
    if not all(isinstance(one, dict) for one in found):
        raise ValueError("a message's parts are objects")
    return found[0], found[1], found[2]
