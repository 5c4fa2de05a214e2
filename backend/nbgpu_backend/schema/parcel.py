"""Values on their way between a notebook and a pod: one pickle, and its large buffers beside it.

`b"NBGP1\\n"`, then as unsigned 64-bit little-endian numbers the count of the parts and the length of
each, then the parts: a pickle (protocol 5) of {name: value}, and its out-of-band buffers in order.
A buffer (an array's memory, say) is neither copied when it is packed nor when it is unpacked.

A pickle runs code where it is read: only those who may run code there anyway may send one. One
file, the standard library of Python 3.8 or newer, since it is also copied into pods.
"""

from __future__ import annotations

import io
import pickle
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself would add its import to every start
    from typing import Any, BinaryIO, Callable, Dict, List, Optional, Union

    Part = Union[bytes, bytearray, memoryview]

MAGIC = b"NBGP1\n"
NUMBER = struct.Struct("<Q")
PARTS_LIMIT = 1 << 20


class BadParcel(ValueError):
    """Not a parcel, or one that was cut off."""


class TooLarge(Exception):
    """More than the limit."""


class Bounded(io.BytesIO):
    """Takes `limit` bytes in all; raises TooLarge at more. None: any number."""

    def __init__(self, limit: Optional[int]) -> None:
        super().__init__()
        self.left = float("inf") if limit is None else limit

    def take(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise TooLarge

    def write(self, data: Any) -> int:
        self.take(memoryview(data).nbytes)
        return super().write(data)


def pack(values: Dict[str, Any], limit: Optional[int] = None) -> List[Part]:
    """The parcel in parts, to be written one after the other. The buffers are those of the values:
    leave these alone until it is written.

    Raises TooLarge above `limit` bytes, before much more is in memory, and what pickle raises."""
    out, buffers = Bounded(limit), []

    def aside(buffer: pickle.PickleBuffer) -> None:
        view = buffer.raw()
        out.take(view.nbytes)
        buffers.append(view)

    pickle.Pickler(out, protocol=5, buffer_callback=aside).dump(values)
    parts: List[Part] = [out.getbuffer(), *buffers]
    numbers = [len(parts), *(memoryview(part).nbytes for part in parts)]
    return [MAGIC + b"".join(map(NUMBER.pack, numbers)), *parts]


def size(parts: List[Part]) -> int:
    return sum(memoryview(part).nbytes for part in parts)


def unpack(data: Part) -> Dict[str, Any]:
    """The values. Their buffers lie in `data`: arrays can be written to if it is a bytearray.

    Raises BadParcel, and what pickle raises (ModuleNotFoundError, AttributeError, …)."""
    view, offset = memoryview(data).cast("B"), 0

    def take(count: int) -> memoryview:
        nonlocal offset
        offset += count
        if offset > len(view):
            raise BadParcel("the parcel is cut off: %d of %d bytes" % (len(view), offset))
        return view[offset - count : offset]

    return _load(take)


def read(file: BinaryIO) -> Dict[str, Any]:
    """As unpack, from a file, with memory of its own for each buffer."""

    def take(count: int) -> bytearray:
        part, filled = bytearray(count), 0
        view = memoryview(part)
        while filled < count:
            # BinaryIO does not name readinto; every binary file has it
            got = file.readinto(view[filled:])  # type: ignore[attr-defined]
            if not got:
                raise BadParcel("the parcel is cut off: %d of %d bytes" % (filled, count))
            filled += got
        return part

    return _load(take)


def _load(take: Callable[[int], Any]) -> Dict[str, Any]:
    if bytes(take(len(MAGIC))) != MAGIC:
        raise BadParcel("this is no parcel")
    (count,) = NUMBER.unpack(take(NUMBER.size))
    if not 1 <= count <= PARTS_LIMIT:
        raise BadParcel("a parcel of %d parts" % count)
    lengths = [NUMBER.unpack(take(NUMBER.size))[0] for _ in range(count)]
    first, *buffers = [take(length) for length in lengths]
    values = pickle.loads(first, buffers=buffers)
    if not isinstance(values, dict):
        raise BadParcel("a parcel holds names and values, not a %s" % type(values).__name__)
    return values
