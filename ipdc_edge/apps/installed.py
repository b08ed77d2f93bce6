"""`python3 -m ipdc_edge.apps.installed`: what others' packages offer as architectures, as JSON [[name, "module:class"],
...] on standard output.

A program of its own, because importlib.metadata costs 4 MB, which Python does not give back. Imports none of them.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import entry_points

GROUP = "ipdc_edge.apps"


def main() -> int:
    """0, with what is registered under GROUP."""
    json.dump([[point.name, point.value] for point in entry_points(group=GROUP)], sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
