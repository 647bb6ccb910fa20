"""A real server that puts its session back into the queue on SIGUSR1, and runs it again on SIGUSR2."""

import signal
import sys

import trio

from actors.engine import Engine
from pipeline import run

LIMITS = {signal.SIGUSR1: 0, signal.SIGUSR2: 1}
serve = Engine.run


async def serve_and_obey(self, *, task_status=trio.TASK_STATUS_IGNORED):
    async with trio.open_nursery() as nursery:

        async def obey():
            with trio.open_signal_receiver(*LIMITS) as signals:
                async for number in signals:
                    self.admission.set_limit(LIMITS[number])

        nursery.start_soon(obey)
        await serve(self, task_status=task_status)
        nursery.cancel_scope.cancel()


Engine.run = serve_and_obey
run.run_and_exit(sys.argv[1:])
