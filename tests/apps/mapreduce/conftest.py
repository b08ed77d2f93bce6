"""Makes helpers_mapreduce importable: pytest's importlib mode leaves the tests' directories off the path."""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
