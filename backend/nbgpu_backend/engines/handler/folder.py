"""What can be wrong with a handler's file and folder, found before anything is stored or installed.

Blocking, with bounds: builder.py runs it in a child process.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib.machinery import all_suffixes
from pathlib import Path

from nbgpu_backend.engines.handler import sdk
from nbgpu_backend.engines.handler.requirements import Requirements
from nbgpu_backend.errors import BadRequest, NotFound
from nbgpu_backend.folders import code_files, entries

START = "runpod.serverless.start"
EXAMPLE = (
    "The least that it takes:\n"
    "    import runpod\n"
    '    def handler(job): return job["input"]\n'
    '    runpod.serverless.start({"handler": handler})'
)
# what the revision is made of, and no more of it than a look may cost
MOST_FILES = 500
MOST_ENTRIES = 20_000
MOST_BYTES = 1 << 20
DYNAMIC = frozenset({"import_module", "__import__", "run_path", "run_module", "exec"})


@dataclass(frozen=True, slots=True)
class Code:
    """The files of a handler's folder, as far as they count."""

    revision: str  # 12 hex digits over the path, the Python files and the requirements
    bytes: int


def find(ref: str, cwd: Path) -> Path:
    """The absolute path of the handler's file. Raises NotFound or BadRequest.

    A link is followed, as Python does before it looks beside a program for modules.
    """
    typed = cwd / Path(ref).expanduser()
    path = typed.resolve()
    if not path.exists():
        raise NotFound(f"There is no file {ref} in {cwd}.", _near(typed), code="no_handler")
    if path.is_dir():
        inside = sorted(file.name for file in path.glob("*.py"))[:8]
        hint = f"There: {', '.join(inside)}." if inside else "It holds no .py file."
        raise BadRequest(f"{path} is a folder; a handler is one file in it.", hint)
    if not path.is_file():
        raise BadRequest(
            f"{path} is no regular file.", "A handler is a Python file, such as handler.py."
        )
    if path.suffix != ".py":
        raise BadRequest(
            f"{path.name} is no Python file: a handler's name ends in .py.",
            "Put the code into a file such as handler.py.",
        )
    return path


def check(file: Path, modules: Collection[str] = ()) -> None:
    """Raise BadRequest unless `file` can be started as a handler where it lies.

    `modules` are the top-level names that came with the SDK, where its environment is there.
    """
    check_names(file.parent, frozenset(modules) | sdk.MODULES)
    check_source(file, _source(file))


def check_names(folder: Path, modules: Collection[str]) -> None:
    """The folder comes first where Python looks for modules, so a name in it hides all others."""
    for name, entry in sorted(_importable(folder)):
        if name in sys.builtin_module_names:
            what = f"has the name of Python's own module `{name}`, which comes first"
        elif name in sys.stdlib_module_names:
            what = f"hides Python's own module `{name}`"
        elif name in modules:
            what = f"hides the module `{name}`, which the runpod package needs"
        else:
            continue
        raise BadRequest(
            f"{entry} beside the handler {what}.",
            f"Rename {folder / entry} (say, to my_{entry}), and where it is imported.",
            code="handler_shadows",
        )


def check_source(file: Path, source: bytes) -> None:
    """It parses, and starts the SDK: itself, or perhaps a module beside it does."""
    try:
        tree = ast.parse(source, str(file))
    except SyntaxError as error:
        raise BadRequest(
            f"{file.name}, line {error.lineno or 1}: {error.msg}.",
            "Correct it, then deploy again." + _caret(error),
            code="handler_syntax",
        ) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise BadRequest(f"{file.name} is no Python that can be read: {error}.", "") from None
    names = _Names(tree)
    if not names.starts and not names.dynamic and not _imports_beside(file.parent, names):
        raise BadRequest(
            f"{file.name} nowhere calls {START}, so it would never ask for a job.",
            EXAMPLE,
            code="handler_start",
        )


def revision(file: Path, wanted: Requirements) -> Code:
    """Another one after an edit of any Python file in the folder or of the requirements."""
    digest, total = hashlib.sha256(), 0
    for part in (str(file), *wanted.lines, *wanted.constraints):
        digest.update(part.encode() + b"\0")
    for path in python_files(file.parent):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        total += len(content)
        digest.update(f"{path.relative_to(file.parent)}\0{len(content)}\0".encode())
        digest.update(content)
    return Code(digest.hexdigest()[:12], total)


def python_files(folder: Path) -> list[Path]:
    """Sorted, nearest first, at most MOST_FILES. Hidden and large ones and environments are left out."""
    found: list[Path] = []
    for entry in code_files(folder, MOST_ENTRIES):
        if len(found) == MOST_FILES:
            break
        if entry.name.endswith(".py") and entry.is_file() and entry.stat().st_size <= MOST_BYTES:
            found.append(Path(entry.path))
    return found


def _importable(folder: Path) -> Iterator[tuple[str, str]]:
    """(module, file or folder) of what can be imported from `folder`.

    A folder without __init__ hides nothing: a module further down the path comes before it.
    """
    suffixes = sorted(all_suffixes(), key=len, reverse=True)
    for entry in entries(folder):
        if entry.is_dir():
            if any(Path(entry.path, f"__init__{suffix}").is_file() for suffix in suffixes):
                yield entry.name, f"{entry.name}/"
            continue
        suffix = next((end for end in suffixes if entry.name.endswith(end)), None)
        if suffix:
            yield entry.name.removesuffix(suffix), entry.name


class _Names:
    """What a program imports, and whether it mentions the SDK's start under any name."""

    def __init__(self, tree: ast.Module) -> None:
        self.modules: set[str] = set()  # imported, without the SDK
        self.relative = False
        self.dynamic = False  # imports by a name that is made as it runs
        self.starts = False
        self._known: dict[str, str] = {}  # local name -> dotted
        nodes = list(ast.walk(tree))
        for node in nodes:
            self._import(node)
        self.starts = self.starts or any(self._dotted(node) == START for node in nodes)
        self.dynamic = any(
            isinstance(node, ast.Call) and _last(node.func) in DYNAMIC for node in nodes
        )

    def _import(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                self._known[alias.asname or first] = alias.name if alias.asname else first
                self.modules.add(first)
        elif isinstance(node, ast.ImportFrom):
            self.relative = self.relative or node.level > 0
            module = node.module or ""
            self.modules.add(module.partition(".")[0])
            for alias in node.names:
                if alias.name == "*":
                    self.starts = self.starts or module == "runpod.serverless"
                    self._known.setdefault("serverless", f"{module}.serverless")
                else:
                    self._known[alias.asname or alias.name] = f"{module}.{alias.name}"

    def _dotted(self, node: ast.AST) -> str:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            return self._known.get(node.id, "")
        if isinstance(node, ast.Attribute):
            before = self._dotted(node.value)
            return before and f"{before}.{node.attr}"
        return ""


def _last(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _imports_beside(folder: Path, names: _Names) -> bool:
    return names.relative or any(
        name and ((folder / f"{name}.py").is_file() or (folder / name).is_dir())
        for name in names.modules
    )


def _source(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadRequest(
            f"{file} cannot be read: {error.strerror}.", "Correct its permissions."
        ) from None


def _caret(error: SyntaxError) -> str:
    """The line, as Python shows it."""
    if not error.text:
        return ""
    line = error.text.rstrip("\n")
    shown = f"\n    {line.strip()}"
    if error.offset:
        shift = error.offset - 1 - (len(line) - len(line.lstrip()))
        shown += f"\n    {' ' * max(0, shift)}^"
    return shown


def _near(typed: Path) -> str:
    folder = typed.parent
    if not folder.is_dir():
        return f"There is no folder {folder}."
    there = sorted(file.name for file in folder.glob("*.py"))
    if close := difflib.get_close_matches(typed.name, there, n=2, cutoff=0.5):
        return f"Did you mean {' or '.join(close)}?"
    return f"There: {', '.join(there[:8])}." if there else f"{folder.resolve()} holds no .py file."
