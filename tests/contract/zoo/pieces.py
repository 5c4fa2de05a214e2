"""A generator: its pieces are streamed, and are its output as well."""

import runpod


def handler(job):
    for n in range(job["input"]["to"]):
        if n == job["input"].get("raise_at"):
            raise ValueError("in the middle")
        yield {"n": n, "text": "x" * job["input"].get("size", 0)}


runpod.serverless.start({"handler": handler, "return_aggregate_stream": True})
