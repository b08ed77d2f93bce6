"""`ipdc-edge serve`: keeps a model loaded on the best nodes, where it answers requests by MQTT.

Owns its flags and what is shown until all places serve and after. Serving is a job (apps/tflite/serve_plan.py): jobs,
status, story, logs and cancel are those of every job. Asking is `ipdc-edge ask`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from typing import Any

from ipdc_edge.apps.tflite.plan import MODEL
from ipdc_edge.apps.tflite.serve_plan import MOST_PATIENCE, MOST_PLACES, MOST_QUEUE, PATIENCE, QUEUE
from ipdc_edge.codec.serving import SERVES, TOPIC
from ipdc_edge.commands.client import Conversation, call
from ipdc_edge.commands.display import FINAL, counted, print_json, size
from ipdc_edge.commands.inference import needed, shipped_function
from ipdc_edge.commands.job_options import Job, memory, parse_arguments
from ipdc_edge.commands.program import Files
from ipdc_edge.commands.progress import Progress
from ipdc_edge.commands.submit import LEAST_MEMORY, hand_in
from ipdc_edge.commands.watch import outcome
from ipdc_edge.errors import DaemonLost, IpdcError, WrongUsage
from ipdc_edge.home import Home

APP = "serve"
HELP = "keep a model loaded on several nodes, where it answers requests by MQTT"
EXAMPLES = """\
examples:
  ipdc-edge serve flowers.tflite --topic flowers -k 2
  ipdc-edge serve m.tflite --topic m --pre Pre.py --post Post.py --no-wait
  ipdc-edge ask flowers --input photo.jpg rows.csv        (asks it, from any node of the domain)
  ipdc-edge ask flowers --health                          (who serves, queues, p50 and p99)
  ipdc-edge cancel ID                                     (ends it)

Any program of a node asks at that node's own broker, by MQTT 5: it publishes to ipdc/serve/TOPIC/request, with a
response topic below ipdc/serve/answer/ and correlation data, and is answered there with JSON: {"predictions": [...]},
or {"error": "..."}. ipdc-edge(1) says what a request may be. Where a node is lost another one takes its place.
Ctrl-C while it waits leaves the model served.
"""


class TopicTaken(IpdcError):
    """{topic} is served already, by {nodes}. Take another topic, or end that first: `ipdc-edge jobs` on the node where
    it was begun, `ipdc-edge cancel ID`"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "Keep a TensorFlow Lite model loaded on the domain's best nodes, where it answers requests."
    parser.epilog = EXAMPLES
    parser.add_argument("model", metavar="FILE", help="a TensorFlow Lite model")
    parser.add_argument("--topic", metavar="NAME", required=True,
                        help="what it is asked by: up to 64 letters, digits, - _ .")
    parser.add_argument("-k", dest="workers", metavar="N", type=int, default=1, help="nodes that serve (default: 1)")
    parser.add_argument("--pre", metavar="FILE", help="Python file with pre(name, data), or FILE:FUNCTION")
    parser.add_argument("--post", metavar="FILE", help="Python file with post(name, outputs), or FILE:FUNCTION")
    parser.add_argument("--file", metavar="PATH", action="append", default=[], help="a file that travels with these")
    parser.add_argument("--args", dest="arguments", metavar="JSON", default="{}", help="for setup(args) of these")
    parser.add_argument("--images", action="store_true", help="requests are images: only nodes with Pillow serve")
    parser.add_argument("--memory", metavar="SIZE", type=memory, help="memory of one runner, such as 64M (default: "
                        "what the interpreter needs)")
    parser.add_argument("--queue", metavar="N", type=int, default=QUEUE,
                        help="requests that may wait at one node; beyond that it says busy (default: %(default)s)")
    parser.add_argument("--patience", metavar="SECONDS", type=int, default=PATIENCE,
                        help="how long a runner may work until it gives the next answer (default: %(default)s)")
    parser.add_argument("--wait", action=argparse.BooleanOptionalAction, default=None,
                        help="wait for the job's end and show how it does (default)")
    parser.add_argument("--id-only", action="store_true", help="print nothing but the job's id; implies --no-wait")
    parser.add_argument("--json", action="store_true", help="print the job as JSON lines while it serves")


def run(args: argparse.Namespace) -> int:
    """0 where nobody waits; else as its job ended."""
    home = Home(os.environ)
    _check(args)
    job = read(args)
    _free(home, args)
    spec: dict[str, Any] = {"app": APP, "workers": args.workers}
    if args.memory is not None:
        spec["memory"] = args.memory
    ident = hand_in(home, job, [], spec, Progress(True))
    wait = args.wait if args.wait is not None else not args.id_only
    if args.id_only:
        print(ident, flush=True)
    elif not wait and args.json:
        print_json({"id": ident}, line=True)
    elif not wait:
        print(f"job {ident} serves {args.topic} as soon as nodes have it. How it does: ipdc-edge ask {args.topic} "
              "--health")
    return _wait(home, ident, args) if wait else 0


def read(args: argparse.Namespace) -> Job:
    """The job of the flags. NoModel, or what is wrong with a program."""
    files = Files()
    name = args.model.rpartition("/")[2]
    options: dict[str, Any] = {"model": files.ship(args.model, name if name.endswith(MODEL) else name + MODEL),
                               "topic": args.topic, "queue": args.queue, "patience": args.patience}
    for role, wanted in (("pre", "pre(name, data)"), ("post", "post(name, outputs)")):
        if (word := getattr(args, role)) is not None:
            options[role] = shipped_function(files, role, word, wanted)
    for path in args.file:
        files.ship_all(path)
    options["operators"] = needed(args.model)
    if args.images:
        options["images"] = True
    return Job(files.paths, options, parse_arguments(args.arguments))


def _check(args: argparse.Namespace) -> None:
    """WrongUsage."""
    if not TOPIC.fullmatch(args.topic):
        raise WrongUsage(reason=f"--topic {args.topic!r}: up to 64 letters, digits, - _ and ., first a letter or "
                         "digit; not 'answer'.")
    for flag, value, most in (("-k", args.workers, MOST_PLACES), ("--queue", args.queue, MOST_QUEUE),
                              ("--patience", args.patience, MOST_PATIENCE)):
        if not 1 <= value <= most:
            raise WrongUsage(reason=f"{flag} {value}: give 1 to {most}.")
    if args.memory is not None and args.memory < LEAST_MEMORY:
        raise WrongUsage(reason=f"--memory {size(args.memory)}: a runner needs at least {size(LEAST_MEMORY)}.")


def _free(home: Home, args: argparse.Namespace) -> None:
    """TopicTaken; and a word where there are fewer nodes than places."""
    found = call(home, "nodes").get("nodes")
    nodes = [node for node in found if isinstance(node, dict)] if isinstance(found, list) else []
    taken = [str(node.get("name")) for node in nodes if SERVES + args.topic in node.get("capabilities", ())]
    if taken:
        raise TopicTaken(topic=args.topic, nodes=", ".join(taken[:5]))
    fit = sum(node.get("state") == "ready" and APP in node.get("capabilities", ()) for node in nodes)
    if args.workers > fit:
        print(f"ipdc-edge: -k {args.workers}, but {counted(fit, 'node')} can serve now. Others join when they can",
              file=sys.stderr)


def _wait(home: Home, job: str, args: argparse.Namespace) -> int:
    """Shows the job until it ends. Ctrl-C leaves it alone and says how to go on."""
    try:
        final = _follow(home, job, args)
    except KeyboardInterrupt:
        print(f"\nThe model is served on. Look at it: ipdc-edge ask {args.topic} --health\n"
              f"End it:                          ipdc-edge cancel {job}", file=sys.stderr)
        raise
    error = outcome(final)
    if error is not None:
        raise error
    return 0


def _follow(home: Home, job: str, args: argparse.Namespace) -> Mapping[str, Any]:
    advice = f"`ipdc-edge status {job}`; the model is served on"
    if not args.json:
        print(f"job {job}: {args.topic} on {counted(args.workers, 'node')}", flush=True)
    shown, state = "", {}  # type: tuple[str, dict[str, Any]]
    with Conversation(home, advice) as conversation:
        conversation.request("watch", {"id": job})
        for state in conversation.objects():
            if args.json:
                if state:
                    print_json(state, line=True)
                continue
            line = _line(state, args.workers)
            if line != shown:
                print(line, flush=True)
                shown = line
            if state.get("state") in FINAL:
                break
    if state.get("state") not in FINAL:
        raise DaemonLost(socket=home.control_socket, advice=advice)
    return state


def _line(state: Mapping[str, Any], wanted: int) -> str:
    """Which nodes serve; why others do not yet."""
    running = [task for task in state.get("running") or () if isinstance(task, dict)]
    serve = sorted(str(task.get("node")) for task in running if str(task.get("status", "")).startswith("serves"))
    if len(serve) >= wanted:
        return f"served by {', '.join(serve)}"
    waits = "; ".join(map(str, state.get("waiting") or ())) or "loading"
    return (f"served by {', '.join(serve)}; " if serve else "") + f"{wanted - len(serve)} of {wanted} not yet: {waits}"
