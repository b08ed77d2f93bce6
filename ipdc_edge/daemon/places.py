"""The places at which this node serves models: their queues, and what their runners are given.

Owns a place's bounded queue, its batches, what becomes of requests when a runner dies, and how long answers took. Which
node is asked is `serving.py`'s. A request that a runner dies of is answered with that, and only that one: those that
were in a batch with it are tried again one by one.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ..codec import serving as codec
from ..codec.answers import RunnerBroken
from ..drivers.runner_socket import Gone

MOST_BYTES = 8 << 20  # of requests that wait at one place
WAITS = 50.0  # seconds that a request may wait; who asked hears nothing after 60 (serving.py)
REMEMBERED = 1000  # answers whose times are known, for p50 and p99
SOON = 5  # deaths of runners in a row, without an answer between them, that end a place
Reply = Callable[[str, bytes], None]  # state and body, as in codec.Answer


@dataclass(slots=True)
class Request:
    """What waits for its answer at a place."""

    kind: str
    name: str
    body: bytes
    sender: str
    number: int  # the sender's own: with it the same request is known when it is made again
    reply: Reply
    came: float = field(default_factory=time.monotonic)
    alone: bool = False  # a runner died of it, or of another one in its batch


class Place:
    """One task of a job of `serve`, while its runner is loaded."""

    def __init__(self, job: str, topic: str, model: str, most: int, patience: float) -> None:
        """model: its CID; most: requests that may wait; patience: seconds that a runner has for an answer."""
        self.job, self.topic, self.model, self.most, self.patience = job, topic, model, most, patience
        self.waiting: deque[Request] = deque()
        self.working: dict[int, Request] = {}  # by its place in the batch that the runner has
        self.bytes = 0
        self.held: dict[str, set[int]] = {}  # numbers of each sender's requests
        self.came = asyncio.Event()
        self.took: deque[float] = deque(maxlen=REMEMBERED)
        self.counters = {"answered": 0, "errors": 0, "busy": 0, "inputs": 0, "batches": 0, "deaths": 0}
        self.since = time.time()
        self.overdue: Callable[[], None] = lambda: None  # ends a runner that takes too long
        self.late = False  # whether it was ended for that
        self.timer: asyncio.TimerHandle | None = None
        self.ended: Callable[[], bool] = lambda: False  # whether the runner is no more
        self.deaths = 0  # in a row

    def ask(self, request: Request) -> None:
        """Takes a request, or says at once that it has no room. One sender gets no more than half of the places. One
        that is made again while it is here is the same: it is answered once."""
        held = self.held.get(request.sender, set())
        if request.number in held:
            return None
        full = len(self.waiting) + len(self.working) >= self.most or self.bytes + len(request.body) > MOST_BYTES
        if full or len(held) >= max(1, self.most // 2):
            self.counters["busy"] += 1
            return request.reply("busy", b"")
        self.held.setdefault(request.sender, held).add(request.number)
        self.bytes += len(request.body)
        self.waiting.append(request)
        self.came.set()
        return None

    def load(self) -> int:
        """How many requests it has."""
        return len(self.waiting) + len(self.working)

    def _over(self, request: Request, state: str, body: bytes) -> None:
        held = self.held[request.sender]
        held.discard(request.number)
        if not held:
            del self.held[request.sender]
        self.bytes -= len(request.body)
        self.counters["answered" if state == "ok" else "errors"] += 1
        request.reply(state, body)

    # -- what the runner reads and writes

    async def read(self, stream: int) -> bytes | None:
        """The next batch: what waits, as soon as anything does. Gone where the runner has ended meanwhile, which is no
        request's fault."""
        self._batch_over()
        while True:
            while not self.waiting and not self.ended():
                self.came.clear()
                await self.came.wait()
            if self.ended():
                raise Gone
            late = time.monotonic() - WAITS
            if self.waiting[0].came >= late:
                break
            self._over(self.waiting.popleft(), "error", codec.error_body(f"it waited for {WAITS:g} s"))
        batch = [self.waiting.popleft()]
        size = len(batch[0].body)
        while (self.waiting and not batch[0].alone and not self.waiting[0].alone and len(batch) < codec.MOST_IN_BATCH
               and size + len(self.waiting[0].body) <= codec.MOST_BATCH_BYTES):
            batch.append(self.waiting.popleft())
            size += len(batch[-1].body)
        self.working = dict(enumerate(batch))
        self.counters["batches"] += 1
        self._rearm()
        return codec.pack_batch((one.kind, one.name, one.body) for one in batch)

    def _rearm(self) -> None:
        """Patience begins anew, with a batch and with each answer: what a batch took is not its last one's fault."""
        self._disarm()
        self.timer = asyncio.get_running_loop().call_later(self.patience, self._too_long)

    def _disarm(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _too_long(self) -> None:
        self.late = True
        self.overdue()

    def _batch_over(self) -> None:
        """The runner is done with a batch; what it forgot to answer is answered here."""
        self._disarm()
        for request in self.working.values():
            self._over(request, "error", codec.error_body("the runner gave no answer to it"))
        self.working = {}

    async def write(self, stream: int, data: bytes) -> None:
        """The answer to one request of the batch. RunnerBroken."""
        try:
            number, well, inputs, body = codec.unpack_result(data)
        except codec.BadInference as error:
            raise RunnerBroken(reason=str(error)) from None
        request = self.working.pop(number, None)
        if request is None:
            raise RunnerBroken(reason=f"it answers request {number}, which it does not have")
        self.deaths = 0
        if self.working:
            self._rearm()
        self.took.append(time.monotonic() - request.came)
        self.counters["inputs"] += inputs
        self._over(request, "ok" if well else "error", body)

    # -- the ends

    def died(self, how: str) -> bool:
        """The runner is gone; whether another one makes sense. Whoever was alone with it is told, the others wait first
        in line, each for a runner's whole attention."""
        self.deaths += 1
        self.counters["deaths"] += 1
        self._disarm()
        if self.late:
            how, self.late = f"it worked longer than {self.patience:g} s (--patience)", False
        suspects, self.working = list(self.working.values()), {}
        if len(suspects) == 1:
            self._over(suspects[0], "error", codec.error_body(f"the runner ended while it worked on this: {how}"))
            return True  # that was the request's fault
        for request in reversed(suspects):
            request.alone = True
            self.waiting.appendleft(request)
        return bool(suspects) or self.deaths < SOON

    def close(self) -> None:
        """The place is given up: whoever waits may ask another node."""
        self._disarm()
        for request in (*self.working.values(), *self.waiting):
            request.reply("elsewhere", b"")
        self.working, self.waiting, self.held, self.bytes = {}, deque(), {}, 0

    # -- what people see

    def health(self) -> dict[str, object]:
        """As the health topic has it; times in milliseconds, of the last thousand answers."""
        took = sorted(self.took)
        return {"job": self.job, "model": self.model, "queue": self.load(), "most_queue": self.most,
                "since": round(self.since), **self.counters,
                "p50_ms": milliseconds(took, 0.50), "p99_ms": milliseconds(took, 0.99)}

    def line(self) -> str:
        """For `status`."""
        told = self.health()
        if not self.took:
            return f"serves {self.topic}: nothing asked yet"
        return (f"serves {self.topic}: {told['answered']} answered, {told['errors']} errors, {told['busy']} busy, "
                f"queue {told['queue']}, p50 {told['p50_ms']} ms, p99 {told['p99_ms']} ms")


def milliseconds(took: list[float], share: float) -> float | None:
    """The time below which so many of the sorted ones are; None where there are none."""
    return round(took[min(len(took) - 1, int(share * len(took)))] * 1000, 3) if took else None
