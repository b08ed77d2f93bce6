"""The command `ipdc-edge`: finds the command's module and runs it.

Owns the table of commands, the exit codes of what goes wrong, and nothing else. Imports only the module
asked for: the daemon, started by `ipdc-edge run`, carries what stands here in its idle memory.
"""

from __future__ import annotations

import errno
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
    "submit": ("submit", "run a job over files, by Python or any program; wait, show progress"),
    "status": ("status", "one job: how far it is, where its time goes, why it waits or failed"),
    "jobs": ("jobs", "the jobs that were submitted on this node"),
    "nodes": ("nodes", "who is in the domain, how busy they are"),
    "result": ("result", "the result of a job, to standard output"),
    "logs": ("logs", "what a job's tasks printed, and their tracebacks"),
    "story": ("story", "what happened to a job or a task: why, and on which node"),
    "cancel": ("cancel", "end a job before it is done"),
    "add": ("add", "put files and directories into this node's content and print their CIDs"),
    "cat": ("cat", "a file by its CID, to standard output"),
    "get": ("get", "a file or directory by its CID, to disk"),
    "ls": ("ls", "the entries of a directory by its CID"),
    "pin": ("pin", "keep what a CID leads to on this node, and fetch it"),
    "unpin": ("unpin", "keep it no longer"),
    "gc": ("gc", "free what was unpinned"),
    "store": ("store", "how full this node's content is, and whether it is sound"),
    "run-inline": ("run_inline", "the same job in one process, for breakpoints and real tracebacks"),
    "domain": ("domain", "the closed domain of this node: make it, show it, back it up"),
    "drain": ("drain", "this node takes no more work, until told otherwise"),
    "invite": ("invite", "a token with which one new node joins the domain"),
    "join": ("join", "make this node a member of a domain, by a token"),
    "leave": ("leave", "this node leaves its domain and is alone again"),
    "expel": ("expel", "take a node out of the domain"),
    "serve": ("serve", "keep a model loaded on several nodes, where it answers requests by MQTT"),
    "ask": ("ask", "ask a served model"),
    "tf": ("tf", "TensorFlow on this node, and clusters over the domain"),
    "doctor": ("doctor", "what is missing or wrong on this node, and what helps"),
    "demo": ("demo", "three nodes on this machine, word count over a real text, results"),
    "lab": ("lab", "many nodes on this machine, for trying and testing"),
    "run": ("run", "this node's daemon, in the foreground"),
    "broker": ("broker", "this node's own mosquitto, in the foreground"),
    "kubo": ("kubo", "this node's own Kubo (IPFS), in the domain's private network, in the foreground"),
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
  ipdc-edge submit --mapper 'python3 mapper.py' --reducer 'uniq -c' --input book.txt
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
    except OSError as error:
        if not _is_about_output(error):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _say(f"Cannot write to standard output: {error.strerror}. What is there is not complete.")
        return 1


def _is_about_output(error: OSError) -> bool:
    """Whether it was a command's own print or write that failed, for want of room or for a broken disk."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    file = place.tb_frame.f_code.co_filename if place is not None else ""
    ours = os.path.dirname(os.path.abspath(__file__))
    return (error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
            and (file.startswith(os.path.join(ours, "commands", "")) or file == __file__))


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
    args, left = parser.parse_known_args(words)
    if left:
        advice = getattr(module, "LEFT_OVER", "") if not left[0].startswith("-") else ""
        parser.error(f"unrecognized arguments: {' '.join(left)}{advice}")
    return int(module.run(args))


def _nearest(word: str) -> str:
    import difflib

    near = difflib.get_close_matches(word, COMMANDS, 1)
    return f" Did you mean {near[0]}?" if near else ""


def _say(text: str) -> None:
    from ipdc_edge.commands.display import plain

    print(f"ipdc-edge: {plain(text)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
