"""Money. `ledger` keeps (instance, rate) intervals, which change only when the rate does; `rates` is the
rate card of the places; `costs` answers what it came to. The rule is `domain.pricing`'s.

A row opens in the transaction that records the launch and closes in the one that records the end. While
it is open its `alive_until_us` moves on every few seconds, so that after a crash of everything the end is
known to within that; such an end is marked estimated.
"""
