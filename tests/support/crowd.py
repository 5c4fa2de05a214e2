"""Many clients at once, that leave in the middle of their answers."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.support.backend import BackendProcess

PATIENCE_S = 60.0


def vanish(backend: BackendProcess, name: str, count: int, body: Mapping[str, Any]) -> None:
    """Return when all of them have had a piece of their streams, and have hung up."""
    streaming, leave = threading.Semaphore(0), threading.Event()
    asked = {"model": name, "stream": True, "messages": [{"role": "user", "content": "hi"}], **body}

    def client(_: int) -> None:
        path = f"/v2/{name}/openai/v1/chat/completions"
        with backend.client() as http, http.stream("POST", path, json=asked) as answer:
            assert answer.status_code == 200
            chunks = answer.iter_raw()  # whose end would end the stream
            next(chunks)
            streaming.release()
            assert leave.wait(PATIENCE_S)

    with ThreadPoolExecutor(count) as pool:
        clients = [pool.submit(client, number) for number in range(count)]
        try:
            for _ in clients:
                assert streaming.acquire(timeout=PATIENCE_S)
            assert backend.row(name)["held"] == count
        finally:
            leave.set()
        for one in clients:
            one.result()
