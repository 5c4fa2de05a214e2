"""`make demo`: the main job on this machine, from nothing to a charted answer.

`python -m demo` installs the engine, makes a small real model, executes notebooks/quickstart.ipynb
against a real endpoint and prints what it measured. It ends what it started.
"""
