"""Several servers of our own behind one balancer, each a process that can be ended in any way, and replaced.

A replica that is started again has the ports and the name that it had, as after an upgrade.

Neighbours: `pipeline.loadtest.server_process` starts one server, `balancer` stands before them. What does
not belong here: what clients do.
"""

import signal
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from pipeline.config import Source
from pipeline.loadtest.haproxy import BACKENDS, Balancer, Slot, await_soon
from pipeline.loadtest.server_process import Booted, boot, free_port


class Fleet:
    """Replicas of one config, by name, and the balancer before them. Its methods block."""

    def __init__(
        self, config: Source, settings: Sequence[str], slots: Sequence[Slot], balancer: Balancer
    ) -> None:
        self.balancer = balancer
        self.replicas: dict[str, Booted] = {}
        self._slots = {slot.name: slot for slot in slots}
        self._config = config
        self._settings = settings
        self._boots: dict[str, AbstractContextManager[Booted]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """All replicas, whether they run or not."""
        return tuple(self._slots)

    def complete(self) -> None:
        """Start what does not run, all at once, and wait until people can come to every replica.

        Raises:
            BootError: a process does not start, or the balancer does not take it in.
        """
        self.balancer.start()
        with ThreadPoolExecutor(len(self._slots)) as starting:
            list(starting.map(self._start, [name for name in self._slots if name not in self.replicas]))
        self.await_taken_in(self._slots)

    def await_taken_in(self, names: Iterable[str]) -> None:
        """Wait until the balancer sends new sessions to these replicas, and everything else.

        Raises:
            BootError: it does not.
        """

        def all_are() -> bool:
            lanes, *others = (self.balancer.seen(backend) for backend in BACKENDS)
            return all(lanes[name].takes_new and all(seen[name].is_up for seen in others) for name in waited)

        waited = tuple(names)
        await_soon(all_are, lambda: f"a replica gets no sessions: {[*map(self.balancer.seen, BACKENDS)]}")

    def await_idle(self) -> None:
        """Wait until every lane of every replica is free, and the balancer knows.

        Raises:
            BootError: one is not.
        """

        def all_are() -> bool:
            rooms = {name: r.get("/health")[1]["lanes"] for name, r in self.replicas.items()}
            seen = self.balancer.seen("lanes")
            return all(
                not room["open"] and seen[name].takes_new and seen[name].weight == room["max"]
                for name, room in rooms.items()
            )

        await_soon(all_are, lambda: f"a lane stays in use: {self.balancer.seen('lanes')}")

    def end(self, name: str, number: int = signal.SIGTERM) -> int | None:
        """End a replica by a signal; its exit code, None where it had to be killed after all."""
        exit_code = self.replicas.pop(name).stop(number)
        self._boots.pop(name).__exit__(None, None, None)
        return exit_code

    def replace(self, name: str) -> int | None:
        """End a replica as an upgrade does, start it anew, and wait for it; the exit code of the old one."""
        exit_code = self.end(name)
        self._start(name)
        self.await_taken_in([name])
        return exit_code

    def close(self) -> None:
        """End everything."""
        for name in tuple(self.replicas):
            self.end(name)
        self.balancer.end()

    def _start(self, name: str) -> None:
        slot = self._slots[name]
        settings = (
            *self._settings,
            f"server.replica={name}",
            f"server.agent_port={slot.agent_port}",
            f"server.public_url={self.balancer.url}",
            'server.trusted_proxies=["127.0.0.1"]',
        )
        self._boots[name] = boot(self._config, settings, port=slot.port)
        self.replicas[name] = self._boots[name].__enter__()


@contextmanager
def fleet(config: Source, settings: Sequence[str], count: int) -> Iterator[Fleet]:
    """`count` replicas that are ready, for as long as the context lasts.

    Raises:
        BootError: they are not.
    """
    slots = [Slot(number, free_port(), free_port()) for number in range(1, count + 1)]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as log:
        made = Fleet(config, settings, slots, Balancer(slots, Path(folder), log))
        try:
            made.complete()
            yield made
        finally:
            made.close()
