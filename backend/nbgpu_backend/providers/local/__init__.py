"""The provider that runs instances on this machine.

shim.py (one folder up)  the parent of each instance; it outlives the backend
provider.py              LocalProvider: launches shims, and reads what exists from their folders
shim_client.py           one question to a shim's socket
parents.py               Parents: starts pre-imported parents, has them fork, ends them (parent.py, one
                         folder up, is what runs there; PARENTS.md tells how and why)
locks.py                 the probe of a lock
records.py               state.json and exit.json
sweep.py                 ends what is left of an instance whose shim was killed
pods.py                  LocalPods: folders, environments and agents of pods
pod_environment.py       what a pod runs in; pod_builder.py, the child process that makes it
sandbox.py               the command line of bubblewrap; separation.py finds out whether it works
procfs.py                /proc and the memory limits of cgroups

What is true of an instance is found in this order. `exit.json` is there: it has ended, and nothing
of it runs. Its lock is held: its shim lives, and answers on the socket. Its lock is free: the shim
was killed; the finder takes the lock, sweeps, writes `exit.json` with the reason `lost`, and lets
go. No folder: gone.

The lock is probed with flock(LOCK_EX | LOCK_NB) on a separate open. That cannot disturb a shim
that starts, because a folder appears by rename with its lock already held, and it makes two
finders take turns. (/proc/locks was the other choice: not in every kernel, and blind to other
mount namespaces.)
"""
