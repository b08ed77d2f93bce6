"""npm packages for tests that compare with other implementations: installed once, into a cache."""

from __future__ import annotations

import json
import os
import subprocess


def installed(name: str, packages: tuple[str, ...]) -> str:
    """A directory with these packages (name@version) in its node_modules."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    directory = os.path.join(cache, "ipdc-edge", name)
    stamp = os.path.join(directory, "stamp")
    wanted = " ".join(packages)
    if not os.path.exists(stamp) or open(stamp).read() != wanted:
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, "package.json"), "w") as file:
            json.dump({"private": True, "type": "module"}, file)
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *packages]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        with open(stamp, "w") as file:
            file.write(wanted)
    return directory
