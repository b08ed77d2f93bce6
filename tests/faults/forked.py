"""A piece of work in a process of its own, forked from this one, and what it tells."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from typing import IO, Any


def in_a_process(work: Callable[[IO[str]], None]) -> tuple[int, IO[str]]:
    """Begin it in a process of its own; its id, and what it writes."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            with open(writing, "w") as file:
                work(file)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    return child, open(reading)


def answer_of(call: Callable[[], object]) -> Any:
    """What it gives, as far as JSON says it, in a process of its own, which leaves nothing open here; None where that
    ends without an answer."""
    child, answer = in_a_process(lambda file: json.dump(call(), file))
    with answer:
        text = answer.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else None
