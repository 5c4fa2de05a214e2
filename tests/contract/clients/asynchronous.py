"""The `runpod` package's asyncio client, unmodified: tells on stdout what a user's program would see."""

import asyncio
import json
import os

import runpod
from runpod import AsyncioEndpoint, http_client

KEY, STEPS, COUNT, HOLD = (os.environ[name] for name in ("KEY", "STEPS", "COUNT", "HOLD"))
seen = {"version": runpod.__version__}
runpod.api_key = KEY


async def wait_for(job, state):
    while await job.status() != state:
        await asyncio.sleep(0.05)


async def main(session):
    steps = AsyncioEndpoint(STEPS, session)
    job = await steps.run({"do": "echo", "text": "héllo"})
    seen["run"] = await job.output(timeout=60)
    seen["run again"] = [await job.status(), await job.output()]
    jobs = [await steps.run({"n": n}) for n in range(4)]
    seen["together"] = await asyncio.gather(*(job.output(timeout=60) for job in jobs))

    job = await steps.run({"do": "raise"})
    seen["raised"] = [await job.output(timeout=60), await job.status()]

    count = AsyncioEndpoint(COUNT, session)
    job = await count.run({"to": 3})
    seen["stream"] = [chunk async for chunk in job.stream()]
    seen["streamed"] = await job.status()

    job = await steps.run({"do": "sleep", "s": 600})
    await wait_for(job, "IN_PROGRESS")
    seen["cancel"] = await job.cancel()
    seen["cancelled"] = [await job.status(), await job.output(timeout=5)]

    job, chunks = await count.run({"to": 1000, "pause": 0.5}), []
    async for chunk in job.stream():
        chunks.append(chunk)
        if len(chunks) == 1:
            await job.cancel()
    seen["cancelled stream"] = "ended"

    seen["health"] = await steps.health()
    hold = AsyncioEndpoint(HOLD, session)
    waiting = [await hold.run({"n": n}) for n in range(3)]
    seen["queued"] = [await waiting[0].status(), (await hold.health())["jobs"]["inQueue"]]
    seen["purge"] = await hold.purge_queue()
    seen["purged"] = [await job.status() for job in waiting]


async def start():
    async with http_client.AsyncClientSession() as session:
        await main(session)


asyncio.run(start())
print(json.dumps(seen))
