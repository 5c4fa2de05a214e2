"""`python -m nbgpu.verbs.build` writes verbs.json from the signatures."""

from __future__ import annotations

import json

from nbgpu.verbs.registry import collect
from nbgpu.verbs.spec import PATH


def render() -> str:
    """The text of verbs.json."""
    return json.dumps([verb.dump() for verb in collect()], indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(render())
    print(f"wrote {PATH}")
