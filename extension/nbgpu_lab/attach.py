"""`python -m nbgpu_lab.attach HOME POD`: `nbgpu ssh POD` in a terminal of Lab.

Lab closes a terminal whose shell has ended: what went wrong stays to be read until a key is pressed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys


def main(home: str, pod: str) -> int:
    # Ctrl-C is for what runs below; a handler, unlike SIG_IGN, is not handed on to it
    signal.signal(signal.SIGINT, lambda *_: None)
    code = subprocess.call(
        [sys.executable, "-P", "-m", "nbgpu", "ssh", pod], env={**os.environ, "NBGPU_HOME": home}
    )
    if code != 0:
        with contextlib.suppress(EOFError):
            input("\nPress Enter to close. ")
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
