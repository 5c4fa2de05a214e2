"""`/nbgpu/v1/secrets`: values that are stored for pods, and never given back."""

from __future__ import annotations

from pydantic import Field

from nbgpu_backend.schema.common import Micros, Model, Request

WORDS = ("TOKEN", "KEY", "SECRET", "PASSWORD")


def secret_name(name: str) -> bool:
    """Does a variable of this name hold something that must not be stored readable?"""
    return any(word in name.upper() for word in WORDS)


class SetSecret(Request):
    """The secret of this name, new or changed."""

    value: str = Field(min_length=1, max_length=65_536)


class Secret(Model):
    name: str
    changed_us: Micros


class SecretList(Model):
    secrets: list[Secret]
