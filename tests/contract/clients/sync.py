"""The `runpod` package's client, unmodified: tells on stdout what a user's program would see."""

import json
import os
import time

import requests
import runpod

KEY, STEPS, COUNT, HOLD = (os.environ[name] for name in ("KEY", "STEPS", "COUNT", "HOLD"))
seen = {"version": runpod.__version__}
runpod.api_key = KEY
steps = runpod.Endpoint(STEPS)


def wait_for(job, state):
    while job.status() != state:
        time.sleep(0.05)


job = steps.run({"input": {"do": "echo", "text": "héllo"}})
seen["run"] = job.output(timeout=60)
seen["run again"] = [job.status(), job.output()]
seen["run without input"] = steps.run({"text": "bare"}).output(timeout=60)
seen["run_sync"] = steps.run_sync({"input": {"do": "echo", "n": [1, None, 2.5]}}, timeout=60)
seen["policy"] = steps.run_sync(
    {"input": {"do": "job"}, "policy": {"executionTimeout": 60_000}, "mine": "kept"}, timeout=60
)

job = steps.run({"input": {"do": "raise"}})
seen["raised"] = [job.output(timeout=60), job.status()]

job = runpod.Endpoint(COUNT).run({"input": {"to": 3}})
seen["stream"] = list(job.stream())
seen["streamed"] = job.status()

job = steps.run({"input": {"do": "sleep", "s": 600}})
wait_for(job, "IN_PROGRESS")
seen["cancel"] = job.cancel()
seen["cancelled"] = [job.status(), job.output()]

job = runpod.Endpoint(COUNT).run({"input": {"to": 1000, "pause": 0.5}})
chunks = []
for chunk in job.stream():
    chunks.append(chunk)
    if len(chunks) == 1:
        job.cancel()
seen["cancelled stream"] = "ended"

seen["health"] = steps.health()

hold = runpod.Endpoint(HOLD)
waiting = [hold.run({"input": {"n": n}}) for n in range(3)]
seen["queued"] = [waiting[0].status(), hold.health()["jobs"]["inQueue"]]
seen["purge"] = hold.purge_queue()
seen["purged"] = [job.status() for job in waiting]

try:
    runpod.Endpoint(STEPS, api_key="wrong").run({"input": {}})
except RuntimeError as error:
    seen["wrong key"] = str(error)
try:
    runpod.Endpoint("no-such-thing").run({"input": {}})
except requests.HTTPError as error:
    seen["unknown endpoint"] = error.response.status_code

print(json.dumps(seen))
