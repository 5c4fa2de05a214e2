"""An async generator: counts to `to`, `pause` seconds apart."""

import asyncio

import runpod


async def handler(job):
    given = job["input"]
    for n in range(given["to"]):
        if n:
            await asyncio.sleep(given.get("pause", 0))
        yield {"n": n, "loss": float("nan")} if given.get("divide") else {"n": n}


runpod.serverless.start({"handler": handler})
