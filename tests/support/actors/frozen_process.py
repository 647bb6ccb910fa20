"""A process that is suspended and goes on, in virtual time."""

import trio
import trio.testing

from actors.runtime import awake_clock
from actors.runtime.awake_clock import AwakeClock


class FrozenProcess:
    """Trio's clock and real time together, which a suspended process finds far ahead when it goes on."""

    def __init__(self):
        self.real_s = 1000.0
        self.trio = trio.testing.MockClock()

    def suspend(self, seconds):
        self.real_s += seconds
        self.trio.jump(seconds)

    def run(self, call):
        async def main():
            awake_clock.install(AwakeClock(lambda: self.real_s))
            await call()

        trio.run(main, clock=self.trio)
