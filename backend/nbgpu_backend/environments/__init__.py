"""Virtual environments that are built once and shared: of engines, of handlers, of pods.

    venv.py           one environment: its folder, its lock, its marker
    pip.py            pip, run quietly
    pip_venv.py       one that pip fills, and what is told meanwhile
    pip_failures.py   why pip failed, in one sentence
    distributions.py  what lies in one

They are built by child processes (children.py), never on the event loop.
"""
