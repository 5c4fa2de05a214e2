"""`python -m nbgpu.verbs.build` writes verbs.json from the signatures, and its copy for the front end."""

from __future__ import annotations

import json

from nbgpu.verbs.registry import collect
from nbgpu.verbs.spec import PATH

COPY = PATH.parents[2] / "extension/src/verbs/verbs.json"


def render() -> str:
    """The text of verbs.json."""
    return json.dumps([verb.dump() for verb in collect()], indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(render())
    print(f"wrote {PATH}")
    if COPY.parent.is_dir():  # in a source tree
        COPY.write_text(render())
        print(f"wrote {COPY}")
