"""`python -m pipeline.run`: load a model and serve it until a signal arrives.

Connects the parts: config → files → stages → engine → web. Configuration and weight errors are reported
before a socket opens. SIGTERM drains and exits with 0, SIGINT drains and exits with 130; a second
signal of either kind exits at once.

Neighbours: `pipeline.cli` holds every other command. What does not belong here: anything another
command needs too.
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

from actors.engine import Engine, Loaders
from actors.hub_proxy.client import HubClient
from actors.hub_proxy.disk_store import DiskStore
from actors.proxy import Proxy
from actors.sessions.prompting import ThreadedPersonas
from pipeline import backend, log
from pipeline.cli.arguments import add_config_arguments, add_lan_argument, run_command
from pipeline.cli.program_name import program
from pipeline.cli.ranks import monitor_ranks, run_coordinator, run_follower
from pipeline.config import Config, Settings
from pipeline.diagnostics.machine_capacity import model_threads
from pipeline.errors import EXIT_BROKEN_INVARIANT, EXIT_INTERRUPTED, BrokenInvariantError, StartupError
from pipeline.hub import access
from pipeline.lan.invitation import Invitation
from pipeline.models.checkpoint.resolve import open_config
from pipeline.stages.model_stages import ModelStages, open_stages
from pipeline.stages.tensor_parallel.collective import Coordinator
from web.app import create_app
from web.routes.haproxy_agent import serve_agent
from web.security.forwarded import ReverseProxy
from web.security.listen import ListenConfig
from web.security.rate_limit import RateLimiter
from web.server.serve import serve

DESCRIPTION = """\
Serve a model until SIGTERM or SIGINT.

Either signal lets the open sessions finish, for at most drain_s seconds; a second one exits at once.
"""
EXIT_CODES = """\
exit codes: 0 after SIGTERM, 130 after SIGINT, 2 configuration error, 3 weights error, 4 port in use,
70 internal error
"""
# Three model threads and Trio share one interpreter lock. At Python's default of 5 ms, Trio waits for a
# computing thread each time it wakes up; at 0.5 ms the wait is negligible (docs/explanation/performance.md).
SWITCH_INTERVAL_S = 0.0005

events = structlog.get_logger()


async def _serve(
    config: Config, stages: ModelStages, listen: ListenConfig, coordinator: Coordinator | None
) -> int:
    """Serve until a signal arrives and return the exit code.

    coordinator: the coordinator of the other ranks, None if one process runs the whole model.
    """
    machine = backend.prepare()
    threads = model_threads()
    engine = Engine(
        config.settings,
        Loaders(stages.load_encoder, partial(stages.load_stepper, coordinator), stages.load_decoder),
        stages.card,
        lanes=stages.lanes,
        recommended=stages.bundle.recommended_sampling,
        digest=stages.digest,
        runner=threads.runner,
        personas=ThreadedPersonas(stages.personas.build),
    )
    limiter = RateLimiter(config.settings.limits, ReverseProxy.from_settings(config.settings.server))
    proxy = _proxy(config.settings)
    loaded = stages.bundle.describe()
    app = create_app(
        engine,
        config.settings,
        backend={"device": machine.device, "blas": machine.blas.name, "mlx": machine.mlx_version},
        weights=lambda: loaded if engine.ready.is_set() else None,
        limiter=limiter,
        proxy=proxy,
    )
    shutdown = trio.Event()
    exit_code = 0

    async def announce() -> None:
        await engine.ready.wait()
        card = stages.card
        events.info(
            "ready",
            name=card.name,
            shape=card.shape,
            trained=card.trained,
            model_delay_ms=card.model_delay_ms,
            text=card.text,
            lanes=stages.lanes,
        )

    async def drain() -> None:
        async with trio.open_nursery() as draining:
            draining.start_soon(engine.drain)
            if proxy is not None:
                draining.start_soon(proxy.drain)

    async def handle_signals() -> None:
        nonlocal exit_code
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                if shutdown.is_set():
                    nursery.cancel_scope.cancel()
                exit_code = EXIT_INTERRUPTED if number == signal.SIGINT else 0
                events.info("draining", signal=signal.Signals(number).name)
                shutdown.set()

    with threads.running():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle_signals)
            if coordinator is not None:
                nursery.start_soon(monitor_ranks, coordinator, engine, shutdown, config.settings.stall_s)
            if config.settings.server.agent_port is not None:
                await nursery.start(serve_agent, config.settings.server, engine)
            async with trio.open_nursery() as serving:
                web = partial(serve, app, config.settings, shutdown=shutdown, drain=drain, limiter=limiter)
                address = await serving.start(web)  # fails on a port in use before anything is loaded
                events.info("listening", url=address.url)
                _show_invitation(listen, address.port, config.settings)
                if proxy is not None:
                    await nursery.start(proxy.run)
                await nursery.start(engine.run)
                nursery.start_soon(announce)
            nursery.cancel_scope.cancel()
    return exit_code


def _show_invitation(listen: ListenConfig, port: int, settings: Settings) -> None:
    """Log the certificate, and show the link with its token only on a terminal."""
    credentials = listen.credentials
    if credentials is None:
        return
    events.info(
        "certificate",
        made=credentials.made,
        fingerprint=credentials.fingerprint,
        expires=credentials.expires.date().isoformat(),
        hosts=credentials.hosts.all(),
        folder=str(credentials.folder),
    )
    if sys.stderr.isatty() and settings.log.format != "json":
        Invitation.to(credentials, listen.address, port, listen.token).show(sys.stderr)


def _proxy(settings: Settings) -> Proxy | None:
    """The hub proxy with the user's own hub settings; None if no repository is allowed."""
    options = settings.proxy
    if not options.allow:
        return None
    hub = access()
    upstream = HubClient(
        hub.endpoint,
        hub.token,
        offline=hub.offline,
        timeout_s=options.timeout_s,
        connections=options.fetches,
    )
    folder = Path(options.folder) if options.folder else platformdirs.user_cache_path("packet-voice") / "hub"
    return Proxy(options, upstream, DiskStore(folder), drain_s=settings.drain_s)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def run(config: Config) -> int:
    """Serve the model that `config` describes, as rank 0 or as a follower; return the exit code.

    Raises:
        StartupError: an error the user can fix, found before or while loading.
    """
    ranks = backend.launched_ranks()
    if ranks.rank > 0:
        return run_follower(open_stages(config, ranks), config.settings)
    listen = ListenConfig.from_settings(config.settings.server)
    ReverseProxy.from_settings(config.settings.server)  # reports invalid settings before loading
    stages = open_stages(config, ranks)
    machine = backend.prepare()
    if machine.warning is not None:
        events.warning("backend", warning=machine.warning)
    if not stages.card.trained:
        events.warning("untrained", warning="the weights are random; the output will be noise")
    events.info("memory", needed=str(stages.memory))
    if ranks.size > 1:
        return run_coordinator(stages, config.settings, partial(_run, config, stages, listen))
    return _run(config, stages, listen)


def _run(
    config: Config, stages: ModelStages, listen: ListenConfig, coordinator: Coordinator | None = None
) -> int:
    try:
        return trio.run(_serve, config, stages, listen, coordinator)
    except BaseExceptionGroup as group:
        leaves = list(_leaves(group))
        for leaf in leaves:
            if isinstance(leaf, BrokenInvariantError):
                events.critical("invariant_broken", problem=str(leaf), exc_info=leaf)
                return EXIT_BROKEN_INVARIANT
        for leaf in leaves:
            if isinstance(leaf, StartupError):
                raise leaf from None
        raise


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog=program("run"),
        description=DESCRIPTION,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    add_lan_argument(parser)
    options = parser.parse_args(arguments)
    check = partial(open_stages, ranks=backend.launched_ranks())
    config = open_config(options.config, [*options.lan, *options.set], check=check)
    log.configure(config.settings.log)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return run(config)


def run_and_exit(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command, flush all output and exit the process at once with the command's exit code.

    A normal interpreter exit destroys MLX while its threads, or a model thread inside it, may still be
    running. About one time in fifteen the process then dies of SIGABRT instead of returning its exit code.
    """
    exit_code = run_command(partial(main, arguments))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


if __name__ == "__main__":
    run_and_exit()
