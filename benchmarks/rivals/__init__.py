"""The same word count for others to do: each module is a program, `python3 MODULE.py INPUT OUTPUT [PROCESSES]`, in the
way that its documentation shows, run by the benchmarks in environments of their own. Nothing here is part of ipdc-edge.
"""
