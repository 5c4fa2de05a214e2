"""A pod's agent: what runs inside the pod, in the pod's own Python.

These files know nothing of the package around them. They are copied as one flat folder, with
schema/parcel.py beside them, and run as `python agent.py`; there they import each other by plain
names. They use the standard library of Python 3.8 or newer and pyzmq, which every kernel brings.

- agent.py: the entry; the socket and its requests; the end
- wire.py: one connection: JSON lines and raw bytes
- kernel.py: the kernel's process; client.py: our end of its sockets, with channels.py and messages.py
- launch.py, inside.py: run in the kernel's process: how it starts, and values in and out
- intake.py: from the kernel's messages to items; spool.py: the numbered items on the disk;
  runs.py: the cells; output.py: items to a client, from any number on
- files.py, parcels.py, terminal.py, forward.py: what else is moved
- activity.py: is it in use; children.py: its processes

One thread and one event loop; only hashing, listing and fsync go to others. What a kernel prints is
bounded on the disk (`spool_bytes`), what a client does not read is not read for it.
"""
