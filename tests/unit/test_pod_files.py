"""The files of a pod's agent as a set: what they may use, and how a parcel is made."""

from __future__ import annotations

import ast
import io
import pickle
import sys
from pathlib import Path

import pytest
from nbgpu_backend.schema import parcel

from tests.support.pod_agent import PARCEL, POD

FILES = sorted([*POD.glob("*.py"), PARCEL])
OTHERS = {"zmq", "ipykernel"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_can_be_copied_and_run_by_an_old_python(path: Path) -> None:
    """Python 3.8's syntax, and at run time nothing but the standard library, pyzmq and the folder."""
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    names = set()
    for node in tree.body:
        parts = node.orelse if isinstance(node, ast.If) else [node]  # `if TYPE_CHECKING`
        for part in parts:
            if isinstance(part, ast.Import):
                names |= {alias.name.split(".")[0] for alias in part.names}
            elif isinstance(part, ast.ImportFrom):
                names.add((part.module or "").split(".")[0])
    siblings = {file.stem for file in FILES}
    assert names <= set(sys.stdlib_module_names) | OTHERS | siblings
    assert "typing" not in names


def test_no_file_hides_a_module_that_it_needs() -> None:
    assert not {file.stem for file in FILES} & set(sys.stdlib_module_names)


class Matrix(bytearray):
    """Goes beside the pickle, as an array does."""

    def __reduce_ex__(self, protocol: int) -> object:
        return Matrix, (pickle.PickleBuffer(bytearray(self)),)


def test_a_parcel_comes_out_as_it_went_in() -> None:
    values = {"a": Matrix(b"x" * 100_000), "b": [1, {"c": None}], "d": Matrix()}
    parts = parcel.pack(values)
    assert len(parts) == 4  # the head, the pickle, two buffers
    data = bytearray(b"".join(parts))
    assert len(data) == parcel.size(parts)
    assert parcel.unpack(data) == values
    assert parcel.read(io.BytesIO(bytes(data))) == values


def test_a_buffer_is_not_copied() -> None:
    source = bytearray(b"y" * 1000)
    parts = parcel.pack({"a": pickle.PickleBuffer(source)})
    source[0] = 0
    assert bytes(parts[2][:2]) == b"\0y"
    data = bytearray(b"".join(parts))
    value = parcel.unpack(data)["a"]
    data[-1] = 7
    assert bytes(value)[-1] == 7


def test_a_parcel_above_its_limit_is_not_made() -> None:
    assert parcel.pack({"a": Matrix(b"x" * 1000)}, 2000)
    for value in (Matrix(b"x" * 3000), b"x" * 3000, list(range(3000))):
        with pytest.raises(parcel.TooLarge):
            parcel.pack({"a": value}, 2000)


def test_what_is_cut_off_or_no_parcel_is_refused() -> None:
    data = b"".join(parcel.pack({"a": Matrix(b"x" * 50)}))
    for size in range(len(data)):
        with pytest.raises((parcel.BadParcel, pickle.UnpicklingError)):
            parcel.unpack(data[:size])
        with pytest.raises((parcel.BadParcel, pickle.UnpicklingError)):
            parcel.read(io.BytesIO(data[:size]))
    with pytest.raises(parcel.BadParcel):
        parcel.unpack(b"PK\3\4" + b"\0" * 100)
    with pytest.raises(parcel.BadParcel, match="parts"):
        parcel.unpack(parcel.MAGIC + b"\xff" * 8 + b"\0" * 100)
