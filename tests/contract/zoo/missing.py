"""Imports what its environment does not have."""

import cv2
import runpod

runpod.serverless.start({"handler": lambda job: cv2.__version__})
