"""Measured times. `python -m tests.bench` runs all; each also runs alone, `--json` for its figures.

A bench fails (exit 1) on wrong results, never on slow ones. What is compared is measured side by
side in one run, so that ratios and differences hold on a machine of any speed.

    report.py     figures, what was found wrong, and how both are printed
    stand.py      a backend and a home for one bench
    streaming.py  what the gateway adds to a stream
    gateway/      the gateway beside nginx, vllm-router and LiteLLM
    load.py       `%load_ext nbgpu`
    idle.py       a backend that has nothing to do
    panel.py      from a change in the backend to its text in the panel, in a real browser
    coldstart.py  from deploy to the first token
"""
