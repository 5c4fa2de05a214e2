"""The `runpod` package's client with the key of one endpoint: tells on stdout what its user would see."""

import json
import os

import requests
import runpod

KEY, REVOKED, STEPS, OTHER = (os.environ[n] for n in ("KEY", "REVOKED", "STEPS", "OTHER"))
seen = {"version": runpod.__version__}
runpod.api_key = KEY
steps = runpod.Endpoint(STEPS)

# the key may send three a minute
seen["run_sync"] = steps.run_sync({"input": {"do": "echo", "n": 1}}, timeout=60)
job = steps.run({"input": {"do": "echo", "n": 2}})
seen["run"] = [job.output(timeout=60), job.status()]
seen["health"] = sorted(steps.health())
held = steps.run({"input": {"do": "sleep", "s": 600}})
try:
    steps.run({"input": {"do": "echo"}})
except requests.HTTPError as error:
    seen["too many"] = [error.response.status_code, error.response.json()["status"]]
    seen["retry after"] = int(error.response.headers["Retry-After"])
seen["cancel"] = held.cancel()["status"]

try:
    runpod.Endpoint(OTHER).run({"input": {}})
except requests.HTTPError as error:
    seen["other endpoint"] = [error.response.status_code, error.response.json()["error"]]
try:
    runpod.Endpoint(STEPS, api_key=REVOKED).run({"input": {}})
except RuntimeError as error:
    seen["revoked"] = str(error)

print(json.dumps(seen))
