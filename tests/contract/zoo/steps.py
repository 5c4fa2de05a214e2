"""An async handler, several jobs at a time, that does as its job says."""

import asyncio
import os

import runpod


async def handler(job):
    given = job["input"]
    do = given.get("do", "echo")
    if do == "sleep":
        await asyncio.sleep(given["s"])
    elif do == "raise":
        raise ValueError("there is no such colour")
    elif do == "divide":
        return {"loss": float("nan"), "norms": [1.5, float("inf")]}
    elif do == "job":
        return job
    elif do == "environment":
        return dict(os.environ)
    elif do == "pid":
        return os.getpid()
    return given


runpod.serverless.start({"handler": handler, "concurrency_modifier": lambda current: 8})
