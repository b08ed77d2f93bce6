"""What a job's description may ask for, apart from `values`, whose records the command line need not load for it.
"""

MOST_UNASKED = 16  # workers of a job for which nobody asked for a number
MOST_PRIORITY = 10  # and as much below 0
MOST_TIMEOUT = 100_000_000  # seconds; three years
