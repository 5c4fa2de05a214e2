"""Python values as one body of octets (stdlib only: it is copied into pods).

    b"NBGP1\\n"  count (u64)  length of each part (u64 × count)  the parts

Numbers are little-endian. The first part is a pickle of protocol 5 of {name: value}, the others are its
out-of-band buffers, which are neither copied when written nor when read.
"""

from __future__ import annotations

import pickle
import struct
from typing import Any

MAGIC = b"NBGP1\n"


def dump(values: dict[str, Any]) -> list[Any]:
    """The parcel in pieces (bytes and flat memoryviews), to be written one after the other.

    Raises what pickle raises for a value that it cannot take.
    """
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(values, protocol=5, buffer_callback=buffers.append)
    parts: list[Any] = [head, *(buffer.raw() for buffer in buffers)]
    lengths = [memoryview(part).nbytes for part in parts]
    return [MAGIC + struct.pack(f"<Q{len(parts)}Q", len(parts), *lengths), *parts]


def load(data: Any) -> dict[str, Any]:
    """The values of a parcel. Those with buffers keep `data` alive.

    Raises ValueError for what is no parcel or is cut short, and what unpickling raises.
    """
    view = memoryview(data).cast("B")
    start = len(MAGIC) + 8
    if bytes(view[: len(MAGIC)]) != MAGIC or view.nbytes < start:
        raise ValueError("this is no parcel")
    (count,) = struct.unpack_from("<Q", view, len(MAGIC))
    if not 1 <= count <= (view.nbytes - start) // 8:
        raise ValueError("the parcel is cut short")
    lengths = struct.unpack_from(f"<{count}Q", view, start)
    position = start + 8 * count
    if position + sum(lengths) != view.nbytes:
        raise ValueError("the parcel is cut short")
    parts = []
    for length in lengths:
        parts.append(view[position : position + length])
        position += length
    found: dict[str, Any] = pickle.loads(parts[0], buffers=parts[1:])
    return found
