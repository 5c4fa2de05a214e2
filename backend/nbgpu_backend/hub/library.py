"""What a model reference means: a folder, a name in NBGPU_HOME/models, or a hub repository."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from nbgpu_backend.errors import BadRequest, NotFound
from nbgpu_backend.home import Home

WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
HUB_ID = re.compile(rf"(?P<repo>{NAME.pattern}/{NAME.pattern})(?:@(?P<revision>[^\s@]+))?")


@dataclass(frozen=True, slots=True)
class LocalModel:
    path: Path  # absolute, with config.json and weights

    @property
    def name(self) -> str:
        return self.path.name


@dataclass(frozen=True, slots=True)
class HubModel:
    repo: str  # org/name
    revision: str = "main"  # a branch, a tag or a commit

    @property
    def name(self) -> str:
        return self.repo.rpartition("/")[2]


def locate(ref: str, home: Home, cwd: Path) -> LocalModel | HubModel:
    """Tell what `ref` is. Relative paths count from `cwd`.

    `hub:org/name` is always the hub. Raises NotFound for what is nowhere (naming what is near),
    BadRequest for a folder that is no model.
    """
    ref = ref.strip()
    if not ref:
        raise BadRequest(
            "No model is named.", "Give a folder, a name from NBGPU_HOME/models, or org/name."
        )
    if ref.startswith("hub:"):
        return _hub(ref.removeprefix("hub:"))
    typed_as_path = ref.startswith((".", "/", "~")) or ref.endswith("/")
    path = (cwd / Path(ref).expanduser()).resolve()
    # a folder that merely has the name of the model (no config.json) does not hide the library's
    if path.is_dir() and (typed_as_path or (path / "config.json").is_file()):
        return LocalModel(check_folder(path))
    if path.is_file():
        raise BadRequest(
            f"{path} is a file; a model is a folder with config.json and weights.",
            f"Try {path.parent}.",
        )
    if typed_as_path:
        raise NotFound(f"There is no folder {path}.", _nearby(ref, home))
    named = home.models / ref
    if NAME.fullmatch(ref) and named.is_dir():
        return LocalModel(check_folder(named.resolve()))
    if "/" in ref:
        if path.is_dir():
            return LocalModel(check_folder(path))  # says what it lacks
        return _hub(ref)
    raise NotFound(f"There is no model {ref!r} in {home.models}.", _nearby(ref, home))


def check_folder(path: Path) -> Path:
    """Return `path` if an engine can load it; BadRequest says what is missing."""
    lacks = []
    if not (path / "config.json").is_file():
        lacks.append("config.json")
    if not any(next(path.glob(pattern), None) for pattern in WEIGHTS):
        lacks.append("weights (*.safetensors, *.bin or *.gguf)")
    if lacks:
        raise BadRequest(
            f"{path} is no model folder: it has no {' and no '.join(lacks)}.",
            "Name the folder that holds config.json, the weights and the tokenizer.",
        )
    return path


def weight_bytes(path: Path) -> int:
    """Size of the weight files that an engine loads: safetensors if there are any."""
    for pattern in WEIGHTS:
        if found := sum(file.stat().st_size for file in path.glob(pattern)):
            return found
    return 0


def context_length(path: Path) -> int | None:
    """The longest context of the model in tokens, from config.json; None if it does not say."""
    config = _config(path)
    for keys in (config, config.get("text_config")):
        if not isinstance(keys, dict):
            continue
        for key in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"):
            if isinstance(keys.get(key), int):
                return int(keys[key])
    return None


def _config(path: Path) -> dict[str, object]:
    try:
        config = json.loads((path / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _hub(ref: str) -> HubModel:
    found = HUB_ID.fullmatch(ref)
    if not found:
        raise BadRequest(
            f"{ref!r} is no model of the hub: those are named org/name or org/name@revision.",
            "For a folder, write its path from / or with ./ before it.",
        )
    return HubModel(found["repo"], found["revision"] or "main")


def _nearby(ref: str, home: Home) -> str:
    try:
        names = sorted(entry.name for entry in home.models.iterdir()
                       if entry.is_dir() and not entry.name.startswith("."))  # fmt: skip
    except OSError:
        names = []
    close = difflib.get_close_matches(Path(ref).name.lower(), names, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    if names:
        return f"There: {', '.join(names[:8])}. A model of the hub is named org/name."
    return "A model of the hub is named org/name; a folder is named by its path, such as ./model."
