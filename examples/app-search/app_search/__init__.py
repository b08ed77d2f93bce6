"""The architecture `search`: `plan.py` is what the master knows of it, `work.py` what a runner does.

Nothing is imported here: the master's side imports the daemon's core, which would cost every runner its memory.
"""
