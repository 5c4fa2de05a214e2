"""The nbgpu service: provisioning, gateway, worker lifecycle, telemetry and money.

This file imports nothing, so that `nbgpu_backend.runtime` and `nbgpu_backend.schema`, the two modules
that others may import, cost only what they need themselves.
"""
