"""What the command line offers for a job's formats, apart from `spec`, which checks all of a description.
"""

INPUT_FORMATS = ("lines", "json", "csv", "whole-file")
OUTPUT_FORMATS = ("text", "json", "raw")
MOST_SKIPPED = 1_000_000  # records
