"""Hosts that are reached over SSH. Here: one tunnel process per host. There: one program, host.py.

host.py        runs on the host as one exec session: everything but bytes to ports and of files
link.py        Link: what the backend uses; it starts the tunnel on demand
tunnel.py      the process: its socket and its ops; nothing else in nbgpu opens SSH
uplink.py      the link's life: connect, watch, connect again; its state
transport.py   from a socket to being logged in: keys, pins, jump hosts (paramiko)
loader.py      from there to a running host.py: the command line, and the code, copied by its hash
channel.py     host.py's frames between a paramiko channel and the event loop
sessions.py    the few sessions of a transport, and its channels to ports
ports.py, exposed.py, transfer.py, openssh.py     ports; local sockets and ports that lead there; files
provider.py    SshHost, what control holds of a host: instances there; pods.py, what it has for pods
supplies.py    what workers need there: engines, weights, programs; cargo.py, what of it is copied
programs.py    runs one of ours there for a moment: room.py makes room for a pod, ../../supply.py
               installs and fetches, with modules of this package that are copied along
contact.py     before a host is added: its key, its settings
settings.py    host.json
errors.py      what can go wrong, with the next step

Call and conversation. A call is one line to the tunnel's socket, which becomes a conversation on the
one channel of host.py; there may be hundreds, each with a window of its own, so that one whose reader
is slow holds up no other. Ports go by direct-tcpip channels, which cost no session (a server allows
10), files by SFTP in a session of their own, large ones by OpenSSH's client.

When the link breaks, every call in flight fails with LinkCut, and none is repeated here: whether it was
done is not known. It is made again at once, then after 0.5 s, doubling to 15 s; a call waits for it
for its patience. Raw connections break with it; exposed sockets go on accepting, and so do the ports
through which workers are reached, but these close at once what they accept. Wrong keys are not
tried again until asked. host.py ends with the link, at the latest when it hears nothing for a minute,
and takes with it what it ran; instances live on under their shims.
"""
