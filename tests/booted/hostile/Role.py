"""A hostile role of a cluster: tries what a hostile job tries. Its targets are its one word."""

from __future__ import annotations

import json
import sys

import execution
import kernel
import places
import processes
import sockets
from attempts import results

MODULES = (places, sockets, processes, kernel, execution)

for name, result in results(json.loads(sys.argv[1])):
    print(name, result, sep="\t", flush=True)
