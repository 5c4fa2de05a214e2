"""Parcels: values with their buffers, whole or refused."""

from __future__ import annotations

import numpy
import pytest
from nbgpu_backend.schema import parcel


def body(values: dict[str, object]) -> bytes:
    return b"".join(bytes(part) for part in parcel.pack(values))


def test_large_buffers_are_not_copied() -> None:
    array = numpy.arange(1_000_000)
    parts = parcel.pack({"a": array, "b": {"x": [1, "two"]}})
    assert any(numpy.shares_memory(numpy.frombuffer(p, array.dtype), array) for p in parts[2:])
    data = b"".join(bytes(part) for part in parts)
    found = parcel.unpack(data)
    assert found["b"] == {"x": [1, "two"]} and (found["a"] == array).all()
    assert numpy.shares_memory(found["a"], numpy.frombuffer(data, "u1"))


def test_the_layout_is_as_written() -> None:
    data = body({"a": bytearray(b"xyz")})
    assert data.startswith(b"NBGP1\n" + (1).to_bytes(8, "little"))
    import pickle

    size = int.from_bytes(data[14:22], "little")
    assert pickle.loads(data[22 : 22 + size]) == {"a": bytearray(b"xyz")}


@pytest.mark.parametrize("cut", [0, 3, 10, 20, -1])
def test_what_is_cut_short_is_refused(cut: int) -> None:
    with pytest.raises(ValueError):
        parcel.unpack(body({"a": 1})[:cut])


def test_a_count_that_lies_is_refused() -> None:
    with pytest.raises(ValueError):
        parcel.unpack(b"NBGP1\n" + (1 << 60).to_bytes(8, "little") + b"x" * 100)
