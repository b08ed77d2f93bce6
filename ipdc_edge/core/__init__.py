"""The pure heart of a node: state machines and functions without sockets, files, threads, clocks or
randomness of their own.

One door, `node.Node.handle(event, now) -> [effects]`. Whoever drives it (the daemon, the simulation) carries
the effects out. `PROTOCOL.md` beside this file documents the messages.
"""
