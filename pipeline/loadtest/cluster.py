"""Several servers behind one balancer, each a process that can be stopped with any signal, and replaced.

A replica that is started again has the same ports and name, as after an upgrade.

Neighbours: `server_process` starts one server, `haproxy` is the balancer. What does
not belong here: what clients do.
"""

import signal
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from pipeline.config import Source
from pipeline.loadtest.haproxy import BACKENDS, Balancer, ReplicaPorts, ServerState, wait_until
from pipeline.loadtest.server_process import ServerProcess, free_port, start_server


class Cluster:
    """Replicas of one config, by name, and the balancer in front of them. All methods block."""

    def __init__(
        self, config: Source, settings: Sequence[str], slots: Sequence[ReplicaPorts], balancer: Balancer
    ) -> None:
        self.balancer = balancer
        self.replicas: dict[str, ServerProcess] = {}
        self._slots = {slot.name: slot for slot in slots}
        self._config = config
        self._settings = settings
        self._server_contexts: dict[str, AbstractContextManager[ServerProcess]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """All replicas, running or not."""
        return tuple(self._slots)

    def start_missing(self) -> None:
        """Start everything that does not run, and wait until every replica gets new sessions.

        Raises:
            ServerStartError: a process does not start, or the balancer does not use it.
        """
        self.balancer.start()
        with ThreadPoolExecutor(len(self._slots)) as starting:
            list(starting.map(self._start, [name for name in self._slots if name not in self.replicas]))
        self.wait_until_ready(self._slots)

    def wait_until_ready(self, names: Iterable[str]) -> None:
        """Wait until the balancer sends new sessions and other requests to these replicas.

        Raises:
            ServerStartError: it does not.
        """

        def are_ready() -> bool:
            lanes, *others = (self.balancer.server_states(backend) for backend in BACKENDS)
            return all(
                lanes[name].accepts_sessions and all(states[name].is_up for states in others)
                for name in expected
            )

        expected = tuple(names)
        wait_until(
            are_ready, lambda: f"a replica gets no sessions: {[*map(self.balancer.server_states, BACKENDS)]}"
        )

    def wait_until_idle(self) -> None:
        """Wait until every client has left, every lane is free, and the balancer has noticed.

        Raises:
            ServerStartError: a lane is still in use.
        """

        def is_idle(health: Mapping[str, Any], state: ServerState) -> bool:
            # A client that is queued gets the lane that another one has left, before it leaves itself.
            lanes = health["lanes"]
            are_free = not health["clients"] and not lanes["open"]
            return are_free and state.accepts_sessions and state.weight == lanes["room"]

        def are_ready() -> bool:
            found = {name: replica.get("/health")[1] for name, replica in self.replicas.items()}
            states = self.balancer.server_states("lanes")
            return all(is_idle(health, states[name]) for name, health in found.items())

        wait_until(are_ready, lambda: f"a lane stays in use: {self.balancer.server_states('lanes')}")

    def stop(self, name: str, number: int = signal.SIGTERM) -> int | None:
        """Stop a replica with a signal; its exit code, None where it had to be killed."""
        exit_code = self.replicas.pop(name).stop(number)
        self._server_contexts.pop(name).__exit__(None, None, None)
        return exit_code

    def replace(self, name: str) -> int | None:
        """Stop a replica, start it again, and wait until it is ready; the exit code of the old process."""
        exit_code = self.stop(name)
        self._start(name)
        self.wait_until_ready([name])
        return exit_code

    def close(self) -> None:
        """Stop everything."""
        for name in tuple(self.replicas):
            self.stop(name)
        self.balancer.stop()

    def _start(self, name: str) -> None:
        slot = self._slots[name]
        settings = (
            *self._settings,
            f"server.replica={name}",
            f"server.agent_port={slot.agent_port}",
            f"server.public_url={self.balancer.url}",
            'server.trusted_proxies=["127.0.0.1"]',
        )
        self._server_contexts[name] = start_server(self._config, settings, port=slot.port)
        self.replicas[name] = self._server_contexts[name].__enter__()


@contextmanager
def start_cluster(config: Source, settings: Sequence[str], count: int) -> Iterator[Cluster]:
    """`count` ready replicas behind a balancer, for the length of the block.

    Raises:
        ServerStartError: a process does not start.
    """
    slots = [ReplicaPorts(number, free_port(), free_port()) for number in range(1, count + 1)]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as log:
        cluster = Cluster(config, settings, slots, Balancer(slots, Path(folder), log))
        try:
            cluster.start_missing()
            yield cluster
        finally:
            cluster.close()
