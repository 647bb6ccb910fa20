"""`python -m pipeline.run`: serve one model until told to stop.

Joins the parts: config → files → stages → line → web. What the user got wrong is found
before a socket opens. SIGTERM drains and ends with 0, SIGINT drains and ends with 130, a
second signal of either kind ends at once.
"""

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

import platformdirs
import structlog
import trio

from actors.engine import Line, Loaders
from actors.hub_proxy.client import HubClient
from actors.hub_proxy.disk_store import Store
from actors.proxy import Proxy
from actors.runtime.pinned_thread import PinnedThread
from actors.runtime.thread_pool import Crew
from pipeline import backend, log
from pipeline.cli.arguments import INTERRUPTED, add_config_arguments, add_lan_argument, run_command
from pipeline.cli.program_name import program
from pipeline.cli.ranks import attend, follow, lead
from pipeline.config import Config, Settings
from pipeline.errors import BrokenInvariantError, StartupError
from pipeline.hub import access
from pipeline.lan.invitation import Invitation
from pipeline.models.checkpoint.resolve import open_config
from pipeline.stages.chain import Chain, open_chain
from pipeline.stages.tensor_parallel.collective import Lead
from web.app import create_app
from web.routes.haproxy_agent import answer_balancers
from web.security.forwarded import Front
from web.security.listen import Door
from web.security.rate_limit import Turnstile
from web.server.serve import serve

BROKEN = 70
# Three model threads and Trio share one interpreter lock. At Python's 5 ms a wake-up of
# Trio waits for whoever computes; at half a millisecond it hardly does (docs/performance.md).
SWITCH_INTERVAL_S = 0.0005

events = structlog.get_logger()


async def _serve(config: Config, chain: Chain, door: Door, leading: Lead | None) -> int:
    """Serve until a signal comes; the exit code. `leading`: the other ranks that have a part of the model."""
    machine = backend.prepare()
    crew = Crew(
        [PinnedThread(f"models {n}", partial(backend.staying_at, at)) for n, at in enumerate(backend.homes())]
    )
    line = Line(
        config.settings,
        Loaders(chain.load_encoder, partial(chain.load_stepper, leading), chain.load_decoder),
        chain.card,
        lanes=chain.lanes,
        recommended=chain.bundle.recommended_sampling,
        digest=chain.digest,
        runner=crew.member,
    )
    turnstile = Turnstile(config.settings.limits, Front.of(config.settings.server))
    proxy = _proxy(config.settings)
    loaded = chain.bundle.describe()
    app = create_app(
        line,
        config.settings,
        backend={"device": machine.device, "blas": machine.blas.name, "mlx": machine.mlx_version},
        weights=lambda: loaded if line.ready.is_set() else None,
        turnstile=turnstile,
        proxy=proxy,
    )
    shutdown = trio.Event()
    exit_code = 0

    async def announce() -> None:
        await line.ready.wait()
        card = chain.card
        events.info(
            "ready",
            name=card.name,
            shape=card.shape,
            trained=card.trained,
            model_delay_ms=card.model_delay_ms,
            text=card.text,
            lanes=chain.lanes,
        )

    async def drain() -> None:
        async with trio.open_nursery() as draining:
            draining.start_soon(line.drain)
            if proxy is not None:
                draining.start_soon(proxy.drain)

    async def heed_signals() -> None:
        nonlocal exit_code
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                if shutdown.is_set():
                    nursery.cancel_scope.cancel()
                exit_code = INTERRUPTED if number == signal.SIGINT else 0
                events.info("draining", signal=signal.Signals(number).name)
                shutdown.set()

    with crew.running():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heed_signals)
            if leading is not None:
                nursery.start_soon(attend, leading, line, shutdown, config.settings.stall_s)
            if config.settings.server.agent_port is not None:
                await nursery.start(answer_balancers, config.settings.server, line)
            async with trio.open_nursery() as serving:
                web = partial(
                    serve, app, config.settings, shutdown=shutdown, drain=drain, turnstile=turnstile
                )
                address = await serving.start(web)  # a taken port is found before anything is loaded
                events.info("listening", url=address.url)
                _invite(door, address.port, config.settings)
                if proxy is not None:
                    await nursery.start(proxy.run)
                await nursery.start(line.run)
                nursery.start_soon(announce)
            nursery.cancel_scope.cancel()
    return exit_code


def _invite(door: Door, port: int, settings: Settings) -> None:
    """Tell how other machines get in: the log without the token, the person at the terminal with it."""
    kept = door.credentials
    if kept is None:
        return
    events.info(
        "certificate",
        made=kept.made,
        fingerprint=kept.fingerprint,
        expires=kept.expires.date().isoformat(),
        hosts=kept.reach.hosts(),
        folder=str(kept.folder),
    )
    if sys.stderr.isatty() and settings.log.format != "json":
        Invitation.to(kept, door.address, port, door.token).show(sys.stderr)


def _proxy(settings: Settings) -> Proxy | None:
    """The way to the hub, as this user reaches it; None where no repository is allowed."""
    knobs = settings.proxy
    if not knobs.allow:
        return None
    hub = access()
    upstream = HubClient(
        hub.endpoint,
        hub.token,
        offline=hub.offline,
        timeout_s=knobs.timeout_s,
        connections=knobs.fetches,
    )
    folder = Path(knobs.folder) if knobs.folder else platformdirs.user_cache_path("packet-voice") / "hub"
    return Proxy(knobs, upstream, Store(folder), drain_s=settings.drain_s)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def run(config: Config) -> int:
    """Serve what `config` describes, or help rank 0 to; the exit code.

    Raises:
        StartupError: something the user can put right, found before or while loading.
    """
    ranks = backend.launched()
    if ranks.rank > 0:
        return follow(open_chain(config, ranks), config.settings)
    door = Door.of(config.settings.server)
    Front.of(config.settings.server)
    chain = open_chain(config, ranks)
    machine = backend.prepare()
    if machine.warning is not None:
        events.warning("backend", warning=machine.warning)
    if not chain.card.trained:
        events.warning("untrained", warning="the weights are random, made from a seed: expect noise")
    events.info("memory", needed=str(chain.memory))
    if ranks.size > 1:
        return lead(chain, config.settings, partial(_run, config, chain, door))
    return _run(config, chain, door)


def _run(config: Config, chain: Chain, door: Door, leading: Lead | None = None) -> int:
    try:
        return trio.run(_serve, config, chain, door, leading)
    except BaseExceptionGroup as group:
        leaves = list(_leaves(group))
        for leaf in leaves:
            if isinstance(leaf, BrokenInvariantError):
                events.critical("broken", problem=str(leaf), exc_info=leaf)
                return BROKEN
        for leaf in leaves:
            if isinstance(leaf, StartupError):
                raise leaf from None
        raise


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog=program("run"), description=__doc__)
    add_config_arguments(parser)
    add_lan_argument(parser)
    options = parser.parse_args(arguments)
    check = partial(open_chain, ranks=backend.launched())
    config = open_config(options.config, [*options.lan, *options.set], check=check)
    log.configure(config.settings.log)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return run(config)


def run_and_exit(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command, then end the process at once with its exit code, all output flushed.

    A normal interpreter exit tears MLX down while its threads, or a model thread inside it, may still
    run, and then dies of SIGABRT instead of returning the exit code, about one time in fifteen.
    """
    exit_code = run_command(partial(main, arguments))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


if __name__ == "__main__":
    run_and_exit()
