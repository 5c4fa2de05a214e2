"""What a notebook imports: `%load_ext nbgpu`, or `import nbgpu; gpu = nbgpu.connect()`.

Importing this costs nothing: each name is loaded when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbgpu.client import connect as connect

__all__ = ["__version__", "connect", "load_ipython_extension", "unload_ipython_extension"]


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext nbgpu`."""
    from nbgpu.magics import install

    install(shell)


def unload_ipython_extension(shell: Any) -> None:
    from nbgpu.magics import remove

    remove(shell)


def __getattr__(name: str) -> Any:
    if name == "connect":
        from nbgpu.client import connect

        return connect
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("nbgpu")
        except PackageNotFoundError:  # run from a source tree
            return "0+unknown"
    raise AttributeError(f"module 'nbgpu' has no attribute {name!r}")
