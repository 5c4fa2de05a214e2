"""Values into the kernel and out of it, by files of the run folder (see inside.py)."""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict

    from nbgpu_backend.pod.files import CHUNK, Files, text, whole
    from nbgpu_backend.pod.kernel import Kernel
    from nbgpu_backend.pod.wire import Refusal, Wire, io_refusal

    Json = Dict[str, Any]
else:
    from files import CHUNK, text, whole
    from wire import Refusal, io_refusal

FOLDER = "parcels"
CALL = '__import__("sys").modules["_nbgpu_inside"].%s(%s)'


class Parcels:
    def __init__(self, run_dir: str, kernel: Kernel, files: Files) -> None:
        self.folder = os.path.join(run_dir, FOLDER)
        self.kernel, self.files = kernel, files
        self.count = 0
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        for name in os.listdir(self.folder):  # of an agent that was killed
            self.remove(os.path.join(self.folder, name))

    def remove(self, path: str) -> None:
        try:
            os.unlink(path)
        except OSError:
            pass

    async def call(self, verb: str, path: str, *arguments: Any) -> Json:
        """Call a function of inside.py and return its answer. Raises Refusal."""
        answer = path + ".answer"
        try:
            listed = ", ".join(ascii(one) for one in (path, *arguments, answer))
            await self.kernel.evaluate(CALL % (verb, listed))
            with open(answer, "rb") as file:
                found: Json = json.loads(file.read().decode("utf-8"))
        except FileNotFoundError:
            raise Refusal("kernel", "the kernel did not do it: was it interrupted?") from None
        except OSError as error:
            raise io_refusal(error, "the parcel") from error
        finally:
            self.remove(answer)
        if "error" in found:
            raise Refusal("kernel" if verb == "send" else "bad_request", found["error"])
        return found

    def place(self) -> str:
        self.count += 1
        return os.path.join(self.folder, "%d" % self.count)

    async def send(self, wire: Wire, request: Json) -> Json:
        names = request.get("names")
        if not isinstance(names, list) or not all(isinstance(x, str) for x in names):
            raise Refusal("bad_request", "names is a list of names")
        for name in names:
            if not name.isidentifier():
                raise Refusal("bad_request", "%s is no name of a variable" % name)
        size = whole(request, "size")
        path = self.place()
        try:
            try:
                with open(path, "wb") as file:
                    await self.files.copy_in(wire, file, size, "the parcel")
            except OSError as error:
                raise io_refusal(error, "the parcel") from error
            found = await self.call("send", path, names)
        finally:
            self.remove(path)
        return {"names": found["names"], "size": size}

    async def fetch(self, wire: Wire, request: Json) -> None:
        name, limit = text(request, "name"), whole(request, "limit", 256_000_000)
        path = self.place()
        try:
            found = await self.call("fetch", path, name, limit)
            found["name"] = name
            await wire.answer(found)
            if found["kept"]:
                return
            with open(path, "rb") as file:
                while True:
                    data = file.read(CHUNK)
                    if not data:
                        return
                    await wire.send(data)
                    self.files.used()
        finally:
            self.remove(path)
