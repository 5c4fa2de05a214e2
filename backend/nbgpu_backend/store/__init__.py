"""Two SQLite databases, and one writer thread for each.

`state.db` (synchronous=FULL) holds what must survive: endpoints, instances, ledger, events, keys, settings.
`telemetry.db` (NORMAL, flushed at most every 250 ms, which is what a kill may lose) holds the records of
requests and the timelines of workers. Nothing spans both. Whoever writes hands a function of a connection
to the writer; the writer drains what has come in, runs it in one transaction and resolves the futures
together (group commit). Reads go through a small pool of read-only connections, in threads.
"""
