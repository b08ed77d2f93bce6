"""The demo's program, word count, as a user would write it: Map.py and Reduce.py. Never imported, but copied."""
