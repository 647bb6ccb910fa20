"""The server of one process: config → files → stages → engine → web, until a signal arrives.

Configuration and weight errors are reported before a socket opens. What only one optional part needs is
not looked at here.

Neighbours: `pipeline.run` is the command. What does not belong here: arguments, and anything another
command needs too.
"""

import gc
import io
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog
import trio

from actors.engine import Engine, Loaders
from actors.hub_proxy.client import HubClient, UnavailableHub, Upstream
from actors.hub_proxy.disk_store import DiskStore, NoStore
from actors.proxy import Proxy
from actors.sessions.prompting import ThreadedPersonas
from pipeline import backend, log
from pipeline.cli.health import is_server
from pipeline.cli.ranks import monitor_ranks, run_coordinator, run_follower
from pipeline.config import Config, Settings, Source
from pipeline.diagnostics.machine_capacity import model_threads
from pipeline.errors import (
    EXIT_BROKEN_INVARIANT,
    BrokenInvariantError,
    ConfigError,
    PortInUseError,
    StartupError,
)
from pipeline.install import paths
from pipeline.install.program_name import is_started_by_make
from pipeline.install.started_as import LanCommands, is_service
from pipeline.lan.addresses import Hosts
from pipeline.lan.invitation import PAGE, Invitation
from pipeline.models.checkpoint.resolve import open_config
from pipeline.stages.model_stages import ModelStages, open_stages
from pipeline.stages.tensor_parallel.collective import Coordinator
from pipeline.system.command import describe, ending_signals, exit_code_after, leaves
from web.app import create_app
from web.routes.haproxy_agent import serve_agent
from web.security.forwarded import ReverseProxy
from web.security.listen import ListenConfig
from web.security.rate_limit import RateLimiter
from web.server.serve import Address, serve

_PORT_MAX = 65_535
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
        model_threads=threads.size,
        personas=ThreadedPersonas(stages.personas.build),
    )
    limiter = RateLimiter(config.settings.limits, ReverseProxy.from_settings(config.settings.server))
    proxy = _proxy(config.settings)
    loaded = stages.bundle.describe()
    app = create_app(
        engine,
        config.settings,
        backend={
            "device": machine.device,
            "blas": machine.blas.name,
            "mlx": machine.mlx_version,
            "kernels": kernels.instruction_set if (kernels := stages.bundle.kernels) else "off",
        },
        weights=lambda: loaded if engine.ready.is_set() else None,
        limiter=limiter,
        proxy=proxy,
        listen=listen,
    )
    shutdown = trio.Event()
    exit_code = 0

    async def drain() -> None:
        async with trio.open_nursery() as draining:
            draining.start_soon(engine.drain)
            if proxy is not None:
                draining.start_soon(proxy.drain)

    async def handle_signals() -> None:
        nonlocal exit_code
        ending = ending_signals()
        with trio.open_signal_receiver(*ending) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)
            async for number in signals:
                if shutdown.is_set():
                    nursery.cancel_scope.cancel()
                exit_code = exit_code_after(number, terminated=0)
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
                web = partial(
                    serve,
                    app,
                    config.settings,
                    shutdown=shutdown,
                    drain=drain,
                    limiter=limiter,
                    listen=listen,
                )
                address = await serving.start(web)  # fails on a port in use before anything is loaded
                events.info("listening", url=address.url)
                if listen.credentials is not None:
                    listen.credentials.note_port(address.port)
                _show_invitation(listen, address.port)
                nursery.start_soon(_announce, engine, stages, listen, address)
                if proxy is not None:
                    await nursery.start(proxy.run)
                await nursery.start(engine.run)
            nursery.cancel_scope.cancel()
    return exit_code


async def _announce(engine: Engine, stages: ModelStages, listen: ListenConfig, address: Address) -> None:
    """Once the models are loaded, log what they are and where to go."""
    await engine.ready.wait()
    _keep_for_good()
    host = Hosts.of(address.host).reachable(address.host)  # nobody can open a wildcard
    card, page = stages.card, f"{replace(address, host=host.strip('[]')).url}{PAGE}"
    events.info(
        "ready",
        name=card.name,
        shape=card.shape,
        trained=card.trained,
        model_delay_ms=card.model_delay_ms,
        text=card.text,
        lanes=stages.lanes,
        open=page,
        # The link has the token, which no log contains: this prints it.
        **({} if listen.credentials is None else {"invite": LanCommands.as_started().invite}),
    )
    if log.is_console() and listen.credentials is None:
        log.write_text(f"\nOpen {page} in a browser. Ctrl-C stops the server.\n\n")


def _keep_for_good() -> None:
    """Leave what exists now out of every later garbage collection.

    A full one looks at each object, and nothing else runs meanwhile, no model thread either. The modules and
    models are more than a hundred thousand objects, which took 50 to 150 ms, and the more often the more
    connections came.
    """
    gc.collect()
    gc.freeze()


class _Page(io.StringIO):
    """Text for the terminal that stderr is."""

    encoding = property(lambda _: sys.stderr.encoding)

    def isatty(self) -> bool:
        return True


def _show_invitation(listen: ListenConfig, port: int) -> None:
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
    if log.is_console():
        page = _Page()
        Invitation.to(credentials, listen.address, port, listen.token).show(page)
        log.write_text(page.getvalue())


def _proxy(settings: Settings) -> Proxy | None:
    """The hub proxy with the user's own hub settings; None if no repository is allowed.

    It is optional: what it lacks is the answer to its requests, and does not keep the server from starting.
    """
    options = settings.proxy
    if not options.allow:
        return None
    upstream: Upstream
    try:
        from pipeline.hub import access  # noqa: PLC0415 - importing the client reads its own settings

        hub = access()
        upstream = HubClient(
            hub.endpoint,
            hub.token,
            offline=hub.offline,
            timeout_s=options.timeout_s,
            connections=options.fetches,
        )
    except (ImportError, ValueError, OSError) as error:
        upstream = UnavailableHub(f"the hub client cannot be used ({error})")
    try:
        store = DiskStore(Path(options.folder) if options.folder else paths.cache_folder() / "hub")
    except ConfigError as error:
        store = NoStore(f"{error}, or set proxy.folder")
    if isinstance(upstream, UnavailableHub):
        events.warning("hub_proxy_unavailable", problem=upstream.problem)
    return Proxy(options, upstream, store, drain_s=settings.drain_s)


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
    if config.settings.kernels == "auto" and (missing := backend.missing_kernels()) is not None:
        events.warning("kernels", warning=missing)
    if not stages.card.trained:
        events.warning("untrained", warning="the weights are random; the output will be noise")
    events.info("memory", needed=str(stages.memory))
    if ranks.size > 1:
        return run_coordinator(stages, config.settings, partial(_run, config, stages, listen))
    return _run(config, stages, listen)


def open_and_run(source: Source, overrides: Sequence[str]) -> int:
    """Open the config, begin to log as it says, and serve; returns the exit code.

    Raises:
        StartupError: an error the user can fix.
    """
    check = partial(open_stages, ranks=backend.launched_ranks())
    config = open_config(source, overrides, check=check)
    log.configure(config.settings.log)
    try:
        return run(config)
    except PortInUseError as error:
        raise _explained(error) from None
    except Exception as error:
        if all(describe(leaf)[1] == EXIT_BROKEN_INVARIANT for leaf in leaves(error)):
            events.critical("internal_error", exc_info=error)
        raise
    finally:
        log.flush()


def _explained(error: PortInUseError) -> PortInUseError:
    """The error with who has the port, and how to choose another where this server was started as it was."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "[::]": "::1"}.get(error.host, error.host)  # noqa: S104
    ours = is_server(host.strip("[]"), error.port)
    setting = f"--set {error.key}={error.port + 1 if error.port < _PORT_MAX else error.port - 1}"
    if is_started_by_make():
        choose = f'make run ARGS="{setting}"'
    elif is_service():
        choose = f"{paths.NAME} service install {setting}"
    else:
        choose = f"the option {setting}"
    user = "another server of this project" if ours else "another program"
    stop = (
        f" (stop the service: {paths.NAME} service stop)"
        if ours and not is_service() and _has_service()
        else ""
    )
    return PortInUseError(
        error.host, error.port, error.key, user=user + stop, advice=f"choose another port with {choose}"
    )


def _has_service() -> bool:
    try:
        return paths.systemd_unit().exists() or paths.launchd_agent().exists()
    except (ConfigError, OSError):
        return False


def _run(
    config: Config, stages: ModelStages, listen: ListenConfig, coordinator: Coordinator | None = None
) -> int:
    try:
        with _signals_held():
            return trio.run(_serve, config, stages, listen, coordinator)
    except BaseExceptionGroup as group:
        causes = list(leaves(group))
        for cause in causes:
            if isinstance(cause, BrokenInvariantError):
                events.critical("invariant_broken", **{"problem": str(cause)} | log.error_facts(cause))
                return describe(cause)[1]
        for cause in causes:
            if isinstance(cause, StartupError):
                raise cause from None
        raise


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold signals back until the server receives them: none is lost while Trio starts."""
    ending = ending_signals()
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)
