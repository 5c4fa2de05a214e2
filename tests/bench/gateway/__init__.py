"""The gateway beside nginx, vllm-router and LiteLLM, before the same stand-in for a server.

`python -m tests.bench.gateway` runs all of it, `make bench` a short form. All peers are up at the same time and
take turns, so that what one run tells of them can be compared; figures of two runs cannot.

    peers.py         the gateways, and how each is started
    environments.py  those from PyPI, each in an environment of its own
    processes.py     their processes, what they use of processor and memory
    wrk.py load.lua  requests a second, latencies, and a look at every answer
    client.py        first bytes and paced streams, on raw sockets
    rounds.py        who is asked what, in which order
    counted.py       nbgpu's own count of requests beside what was sent
    figures.py       medians, spreads, table, plot
    busy.py          nbgpu with other things going on beside it
    real.py          a real vLLM worker behind it
    short.py         the part of it that `make bench` runs
    run.py           one run from a plan to its report
"""
