"""One attempt at a task of `serve`: a runner with the model, and another one whenever that has died.

Owns the life of a place and of its runners. It ends when it is cancelled, or with an error that is no request's: a
model that does not load, or runners that die again and again with nothing to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from ..apps.tflite.serve_plan import PATIENCE, QUEUE, model_of
from ..codec.answers import RunnerBroken
from ..core.effects import StartTask
from ..core.events import TaskProgressed
from ..core.values import Result
from ..drivers.runner import Runner, RunnerDied
from .background import note
from .places import Place

if TYPE_CHECKING:
    from .tasks import HeldCode, TaskRunner

PARAMS = {"inputs": [{}], "outputs": {"kind": "files", "count": 1}}  # requests and answers
TELL_EVERY = 5.0  # seconds between two looks at the line of status, which is told where it is another
PAUSES = (0.0, 0.1, 0.5, 1.0, 2.0)  # seconds before the next runner, by deaths in a row


async def keep(tasks: TaskRunner, effect: StartTask, held: HeldCode) -> Result:
    """Serves until it is cancelled. What a runner's start raises; RunnerDied, RunnerBroken."""
    options = held.spec.body["options"]
    place = Place(effect.key.job, options["topic"], model_of(held.spec.body), options.get("queue", QUEUE),
                  float(options.get("patience", PATIENCE)))

    async def go_on_telling() -> NoReturn:
        told = ""
        while True:
            if (line := place.line()) != told:
                tasks.emit(TaskProgressed(effect.key, effect.attempt, 0, line))
                told = line
            await asyncio.sleep(TELL_EVERY)

    telling: asyncio.Task[NoReturn] | None = None
    try:
        while True:
            runner = await tasks.runner(effect.key, held, effect.task)
            if telling is None:
                tasks.serving().open(place)
                telling = asyncio.create_task(go_on_telling())
            await serve(runner, effect.task, place, lambda: tasks.serving().close(place))
            await asyncio.sleep(PAUSES[min(place.deaths, len(PAUSES)) - 1])
    finally:
        if telling is not None:
            telling.cancel()
            tasks.serving().close(place)


async def serve(runner: Runner, task: str, place: Place, give_up: Callable[[], None]) -> None:
    """Until the runner dies of a request, or of nothing while it has none. give_up: closes the place, at once where no
    other runner follows: whoever waits there shall not wait until this one is gone."""
    place.overdue, place.ended = runner.kill, lambda: runner.ended

    async def notice() -> None:
        await runner.exit()
        place.came.set()

    noticing = asyncio.create_task(notice())
    try:
        await runner.run(task, PARAMS, place.read, place.write, lambda said: None, lambda record: None)
    except (RunnerDied, RunnerBroken) as error:
        note(f"job {place.job}: the runner that serves {place.topic} has ended: {str(error)[:500]}")
        if not place.died(str(error.details.get("how") or error)):
            give_up()
            raise
    except BaseException:
        give_up()
        raise
    finally:
        noticing.cancel()
        await runner.close()
