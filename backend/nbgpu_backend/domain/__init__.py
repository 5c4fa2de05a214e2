"""Decisions, and nothing else: no clock, no I/O, no pydantic.

Everything comes in as an argument, time included, and goes out as data with a reason; the layers above
do what it says. `states` is the one table of states, `scaling` says how many workers there should be,
`dispatch` which request goes to which of them, `memory` whether one more fits, `pricing` what it cost.
"""
