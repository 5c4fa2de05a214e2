"""In the kernel's process: values come in and go out by parcels in files.

Each answer is a JSON file beside the parcel; nothing of this shows in the user's namespace.
"""

from __future__ import annotations

import json
import os
import pickle
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional

    from nbgpu_backend.pod.children import die_with_parent
    from nbgpu_backend.schema import parcel

    Json = Dict[str, Any]
else:
    import parcel
    from children import die_with_parent

__all__ = ["die_with_parent", "fetch", "send", "shell"]

shell: Any = None  # IPython's


def report(path: str, work: Callable[[], Json]) -> None:
    """Write what `work` returns, or why it failed, whole or not at all."""
    try:
        answer = work()
    except BaseException as error:
        answer = {"error": sentence(error)}
        if isinstance(error, KeyboardInterrupt):
            answer = {"error": "interrupted"}
    with open(path + ".tmp", "w") as file:
        json.dump(answer, file)
    os.rename(path + ".tmp", path)


def sentence(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        name = error.name or "a module"
        package = name.split(".")[0]
        if package in sys.modules and package != name:
            return "the pod's %s has no %s: it is of another version than yours" % (package, name)
        return "%s is not installed in the pod: add it to --requirements" % name
    text = "%s: %s" % (type(error).__name__, error) if str(error) else type(error).__name__
    if isinstance(error, AttributeError) and "__main__" in text:
        return (
            text + " (what a notebook defines must be defined in the pod too: run its cell there)"
        )
    return text


def send(path: str, names: List[str], answer: str) -> None:
    """Set names from the parcel in a file, which goes."""

    def work() -> Json:
        with open(path, "rb") as file:
            os.unlink(path)
            values = parcel.read(file)
        missing = [name for name in names if name not in values]
        if missing:
            raise KeyError("the parcel has no %s" % ", ".join(missing))
        chosen = {name: values[name] for name in names or values}
        shell.user_ns.update(chosen)
        return {"names": list(chosen)}

    report(answer, work)


def fetch(path: str, name: str, limit: int, answer: str) -> None:
    """Write the value of an expression to a file as a parcel, unless it is too large."""

    def work() -> Json:
        value = eval(compile(name.strip(), "<get>", "eval"), shell.user_global_ns, shell.user_ns)
        kind = type(value)
        known = kind.__name__ if kind.__module__ == "builtins" else None
        found: Json = {"type": known or "%s.%s" % (kind.__module__, kind.__qualname__)}
        found["size"] = size = estimate(value)
        if size is not None and size > limit:
            return dict(found, kept=True, text=there(size, name))
        try:
            parts = parcel.pack({name: value}, limit)
        except parcel.TooLarge:
            return dict(found, kept=True, text="more than %s" % there(limit, name))
        except Exception as error:
            text = "it cannot be sent (%s), still on the pod as %s" % (sentence(error), name)
            return dict(found, kept=True, text=text)
        with open(path, "wb") as file:
            for part in parts:
                file.write(part)
        found["size"] = parcel.size(parts)
        return dict(found, kept=False, text="")

    report(answer, work)


def there(size: int, name: str) -> str:
    return "%s, still on the pod as %s" % (human(size), name)


def human(size: float) -> str:
    if size < 1000:
        return "%d bytes" % size
    units = ["kB", "MB", "GB", "TB"]
    while size >= 999_950 and len(units) > 1:
        size /= 1000
        del units[0]
    return "%.1f %s" % (size / 1000, units[0])


def estimate(value: Any) -> Optional[int]:
    """About how many bytes a value has, without a copy of it; None where nobody knows."""
    try:
        if isinstance(value, (bytes, bytearray, memoryview, pickle.PickleBuffer)):
            return memoryview(value).nbytes
        if isinstance(value, (str, int, float, complex)):
            return sys.getsizeof(value)
        for name in ("nbytes", "memory_usage"):
            found: Any = getattr(value, name, None)
            if name == "memory_usage" and callable(found):
                found = found()
            if hasattr(found, "sum"):
                found = found.sum()
            if found is not None and not callable(found):
                return int(found)
        if callable(getattr(value, "element_size", None)):
            return int(value.element_size()) * int(value.nelement())
    except Exception:
        return None
    return None
