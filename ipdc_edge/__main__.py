"""The command `ipdc-edge`: finds the command's module and runs it.

Owns the table of commands, the exit codes of what goes wrong, and nothing else. Imports only the module
asked for: the daemon, started by `ipdc-edge run`, carries what stands here in its idle memory.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

from ipdc_edge import __version__
from ipdc_edge.errors import IpdcError

if TYPE_CHECKING:
    from types import ModuleType

PACKAGE = "ipdc_edge.commands."
COMMANDS = {
    "submit": ("submit", "run a Map-Reduce job over files, wait for it, show its progress"),
    "status": ("status", "one job: how far it is, who works on it, why it failed"),
    "jobs": ("jobs", "the jobs that were submitted on this node"),
    "nodes": ("nodes", "who is in the domain, what they can do, how busy they are"),
    "result": ("result", "the result of a job, to standard output"),
    "logs": ("logs", "what a job's tasks printed, and their tracebacks"),
    "cancel": ("cancel", "end a job before it is done"),
    "add": ("add", "put a file into this node's content and print its CID"),
    "cat": ("cat", "content by its CID, to standard output"),
    "run-inline": ("run_inline", "the same job in one process, for breakpoints and real tracebacks"),
    "doctor": ("doctor", "what is missing or wrong on this node, and what helps"),
    "demo": ("demo", "three nodes on this machine, word count over a real text, results"),
    "lab": ("lab", "many nodes on this machine, for trying and testing"),
    "run": ("run", "this node's daemon, in the foreground"),
    "broker": ("broker", "this node's own mosquitto, in the foreground"),
}
INTERRUPTED = 130
READER_GONE = 141  # as a program that SIGPIPE ends

USAGE = """\
usage: ipdc-edge COMMAND ...
       ipdc-edge COMMAND --help

InterPlanetary Distributed Computing: any node submits jobs, any node works on them.

commands:
{commands}

examples:
  ipdc-edge demo
  ipdc-edge submit Map.py Reduce.py --input logs/*.txt -k 3
  ipdc-edge nodes

IPDC_HOME=DIRECTORY chooses another node than the system's own.
Exit codes: 0 done, 1 failed, 2 usage, 3 no daemon, 4 not placed, 130 interrupted.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs a command line and returns its exit code. Errors of ours become a line on stderr; bugs a traceback."""
    words = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names of files may hold any bytes
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except IpdcError as error:
        _say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has had enough, as `| head`. Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items()]
        print(USAGE.format(commands="\n".join(lines)), end="", file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if words[0] == "--version":
        print(f"ipdc-edge {__version__}")
        return 0
    if words[0] not in COMMANDS:
        _say(f"there is no command {words[0]!r}.{_nearest(words[0])} `ipdc-edge --help` lists them.")
        return 2
    module = importlib.import_module(PACKAGE + COMMANDS[words[0]][0])
    quick = getattr(module, "quick", None)  # `run` avoids loading argparse into the daemon
    code = quick(words[1:]) if quick else None
    return _parsed(words[0], module, words[1:]) if code is None else int(code)


def _parsed(name: str, module: ModuleType, words: list[str]) -> int:
    import argparse

    parser = argparse.ArgumentParser(
        prog=f"ipdc-edge {name}", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    module.configure(parser)
    return int(module.run(parser.parse_args(words)))


def _nearest(word: str) -> str:
    import difflib

    near = difflib.get_close_matches(word, COMMANDS, 1)
    return f" Did you mean {near[0]}?" if near else ""


def _say(text: str) -> None:
    print(f"ipdc-edge: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
