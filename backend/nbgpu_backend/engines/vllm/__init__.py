"""vLLM for CPUs, in a virtual environment of its own.

engine.py        the Engine: command, environment, memory, phases
options.py       the user's options against the table of the installed version
preimport.py     vLLM for a pre-imported parent (../../parent.py); runs with the environment's Python
failures.py      one sentence from the log of a vLLM that failed
environment.py   where the environment lies and what it says about itself
installer.py     builds it (a program); inside.py runs with its Python
pins-V.txt       every package of the environment, as tested
"""
