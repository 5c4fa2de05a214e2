"""Ends before it has asked for a job."""

import runpod

raise RuntimeError("the model file is missing")

runpod.serverless.start({"handler": lambda job: job})
