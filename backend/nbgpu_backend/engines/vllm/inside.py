"""What the installer runs with the engine environment's own Python (stdlib and that environment).

    python inside.py requirements DIST LEFT_OUT…   the distribution's requirements here, one a line
    python inside.py name DIST                     give DIST the distribution name "vllm"
    python inside.py describe FILE                 import the API server, write its options to FILE

`describe` prints one JSON object: vllm, torch, torchCuda, transformers, python, options (a count).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import platform
import re
import sys
import sysconfig
from pathlib import Path
from typing import Any


def requirements(dist: str, left_out: list[str]) -> list[str]:
    """What `dist` requires on this machine, extras apart, without the names in `left_out`."""
    parse = importlib.import_module("pip._vendor.packaging.requirements").Requirement
    kept = []
    for line in importlib.metadata.requires(dist) or []:
        requirement = parse(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        if requirement.name.lower().replace("_", "-") in left_out:
            continue
        requirement.marker = None
        kept.append(str(requirement))
    return kept


def name_as_vllm(dist: str) -> str:
    """The vllm command asks for the version of a distribution named "vllm"; returns that version."""
    version = f"{importlib.metadata.version(dist)}+cpu"
    folder = Path(sysconfig.get_paths()["purelib"]) / f"vllm-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n"
        f"Summary: The name of {dist}\n",
        "INSTALLER": "nbgpu\n",
    }
    files["RECORD"] = "".join(f"{folder.name}/{name},,\n" for name in (*files, "RECORD"))
    for name, text in files.items():
        (folder / name).write_text(text)
    return importlib.metadata.version("vllm")


def describe(target: Path) -> dict[str, Any]:
    """Import what `vllm serve` imports, write the table of its options."""
    # vLLM reads the help texts out of its sources only when help is asked for
    sys.argv = ["vllm", "serve", "--help"]
    importlib.import_module("vllm.entrypoints.cli.serve")
    utils = importlib.import_module("vllm.utils.argparse_utils")
    cli_args = importlib.import_module("vllm.entrypoints.launchers.cli_args")
    torch = importlib.import_module("torch")
    parser = cli_args.make_arg_parser(utils.FlexibleArgumentParser(prog="vllm serve"))
    options = [_option(action) for action in parser._actions if action.option_strings]
    version = importlib.metadata.version("vllm")
    target.write_text(json.dumps({"version": version, "options": options}, indent=1) + "\n")
    return {
        "vllm": version,
        "torch": torch.__version__,
        "torchCuda": torch.version.cuda,
        "transformers": importlib.metadata.version("transformers"),
        "python": platform.python_version(),
        "options": len(options),
    }


def _option(action: Any) -> dict[str, Any]:
    arity = {None: "one", 0: "none", "?": "optional", "+": "many", "*": "many"}
    choices = [str(choice) for choice in action.choices] if action.choices else None
    help_text = " ".join((action.help or "").split())
    return {
        "flags": action.option_strings,
        "arity": arity.get(action.nargs, "many"),
        "kind": _kind(action.type),
        "nullable": getattr(action.type, "__name__", "") == "_optional_type",
        "choices": choices,
        "help": re.split(r"(?<=[.!?])\s", help_text, maxsplit=1)[0][:300],
    }


def _kind(convert: Any) -> str:
    """int, float, size, size_or_auto, json or str; vLLM wraps its converters in closures."""
    if convert is None or convert is str:
        return "str"
    known = {
        "int": "int",
        "float": "float",
        "human_readable_int": "size",
        "human_readable_int_or_auto": "size_or_auto",
        "loads": "json",
        "parse_dataclass": "json",
    }
    found = known.get(getattr(convert, "__name__", ""))
    if found:
        return found
    for cell in getattr(convert, "__closure__", None) or ():
        if callable(cell.cell_contents):
            return _kind(cell.cell_contents)
    return "str"


def main() -> None:
    what, *rest = sys.argv[1:]
    if what == "requirements":
        print("\n".join(requirements(rest[0], rest[1:])))
    elif what == "name":
        print(name_as_vllm(rest[0]))
    else:
        print(json.dumps(describe(Path(rest[0]))))


if __name__ == "__main__":
    main()
