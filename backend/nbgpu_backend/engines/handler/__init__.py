"""Files that call runpod.serverless.start, each in an environment of its own.

engine.py         the Engine: command line (through the relay), environment variables, phases
folder.py         what is checked about the handler's file and folder before a deploy
requirements.py   what an environment is made of: requirements.txt and the SDK
environment.py    where an environment lies; installer.py builds it with pip
failures.py       one sentence from the log of a handler that failed; pip_failures.py from pip's
builder.py        the backend's side: looks at folders and builds in child processes (child.py)
sdk.py            the SDK as tested: its version and the modules that come with it

A handler's code and its requirements.txt are read where they lie, each time a worker starts: there
is no copy on this machine (for other hosts, see providers/ssh/supplies.py). An environment belongs to its requirements, so that equal ones are installed once.
"""
