"""A fresh worker for each job, as the configuration asks for."""

import os

import runpod

runpod.serverless.start({"handler": lambda job: os.getpid(), "refresh_worker": True})
