"""``uspex-bridge serve``: keep models warm for the calls of the executables."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uspex_bridge.base.logs import hush
from uspex_bridge.cli.options import CONFIG, THREADS, Finite
from uspex_bridge.service.wire import address

if TYPE_CHECKING:
    from uspex_bridge.call.config import Config, ServiceSettings
    from uspex_bridge.service.shape import Shape

#: Start a worker and a batcher; -P keeps whatever lies in a CalcFold from being imported.
WORKER = [sys.executable, "-P", "-c", "from uspex_bridge.cli.serve import work; work()"]
BATCHER = [sys.executable, "-P", "-c", "from uspex_bridge.cli.serve import batch; batch()"]
#: Runs a command of uspex-bridge.
BRIDGE = [sys.executable, "-P", "-c", "from uspex_bridge.cli.main import main; main()"]
#: Size and number of log files.
_LOG_BYTES, _LOG_FILES = 2_000_000, 3


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--daemon", is_flag=True, help="Return after the service has started; it runs in the background.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Number of structures at once.  [default: one per CPU core and --threads, with --batch 32 per GPU]",
)
@click.option(
    "--batch/--no-batch",
    default=None,
    help="One process per device for all evaluations.  [default: with a GPU]",
)
@click.option(
    "--idle-timeout",
    type=Finite(min=0, min_open=True, infinite=True),
    help="Time without a job after which the service ends, s.  [default: that of the settings, else 3600]",
)
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    help="Socket of the service.  [default: $USPEX_BRIDGE_SOCKET, else one in /tmp]",
)
@click.option(
    "--dask",
    "scheduler",
    metavar="ADDRESS",
    help="Address or file of a Dask scheduler for workers on other nodes.  [default: processes of this machine]",
)
@click.option(
    "--log", type=click.Path(path_type=Path), help="Log file, rotated.  [default: the socket's name with .log]"
)
@click.option("--quiet", is_flag=True, hidden=True, help="Silence on stderr once it listens.")
@CONFIG
@THREADS
def command(socket: Path | None, daemon: bool, quiet: bool, log: Path | None, **options: Any) -> None:
    """Keep models loaded for the calls of uspex-bridge-vasp.

    A call then costs little more than the relaxation itself. Calls find the service automatically. Its settings are
    those of the table [service] in bridge.toml; settings of the relaxation come from each call. SIGTERM ends it after
    the jobs it has, a second one at once.

    Example: uspex-bridge serve --daemon --workers 8
    """
    path = (socket or Path(address())).absolute()
    if daemon:
        from uspex_bridge.service.local import start

        given = {"--" + key.replace("_", "-"): value for key, value in {**options, "log": log}.items()}
        batch = {None: [], True: ["--batch"], False: ["--no-batch"]}[given.pop("--batch")]
        made = {
            key: Path(value).absolute() if key in ("--config", "--log") or str(value).endswith(".json") else value
            for key, value in given.items()
            if value
        }
        pid = start(str(path), [*batch, *(word for key, value in made.items() for word in (key, str(value)))])
        click.echo(f"service {pid} listens at {path}")
        return
    config = _settings(options)
    written = _log(log or Path(f"{path}.log"), screen=not quiet)
    serve(path, options["scheduler"], config, written, _hush if quiet else _keep)


def serve(
    path: Path, scheduler: str | None, config: Config, log: logging.Logger, listening: Callable[[], None]
) -> None:
    """Run the service in this process.

    Raises:
        ServiceError: it cannot listen, or the Dask scheduler does not answer.
    """
    from uspex_bridge.base.threads import limit_threads
    from uspex_bridge.service.daemon import raise_file_limit
    from uspex_bridge.service.shape import choose_shape

    limit_threads(config.threads)
    raise_file_limit()
    if scheduler:
        asyncio.run(_serve_dask(path, config, scheduler, log, listening))
    else:
        asyncio.run(_serve(path, config.service, choose_shape(config), log, listening))


async def _serve(
    path: Path, settings: ServiceSettings, shape: Shape, log: logging.Logger, listening: Callable[[], None]
) -> None:
    from uspex_bridge.service.daemon import Daemon
    from uspex_bridge.service.device_slots import DeviceSlots
    from uspex_bridge.service.pool import LocalPool
    from uspex_bridge.service.students import Students

    environment = dict(os.environ)
    slots = DeviceSlots(BATCHER, shape.devices, f"{path}.b", environment, log) if shape.devices else None
    pool = LocalPool(WORKER, shape.workers, settings.jobs_per_worker, environment, log, slots)
    pool.students = Students(BRIDGE, environment, log)
    await Daemon(path, settings, pool, log, shape.why).serve(listening)


async def _serve_dask(
    path: Path, config: Config, scheduler: str, log: logging.Logger, listening: Callable[[], None]
) -> None:
    from uspex_bridge.base.errors import ServiceError
    from uspex_bridge.service.daemon import Daemon

    try:
        from uspex_bridge.service.dask_pool import DaskPool
    except ImportError as error:
        wanted = "pip install 'uspex_bridge[cluster]'"
        raise ServiceError(f"--dask needs the package distributed ({error}); {wanted}") from None
    logging.getLogger("distributed").handlers = log.handlers
    pool = await DaskPool.connect(scheduler, parse, log)
    daemon = Daemon(path, config.service, pool, log, "every Dask worker evaluates itself")
    watching = asyncio.create_task(pool.watch())
    watching.add_done_callback(lambda task: daemon.end())
    await daemon.serve(listening)
    watching.cancel()


def work() -> None:
    """Be a worker of a service, with the batcher whose socket's path the arguments may name."""
    from uspex_bridge.service.worker import main

    main(parse, *sys.argv[1:2])


def batch() -> None:
    """Be a batcher of a service; the arguments are its socket's path and its device."""
    from uspex_bridge.models.batcher import main

    main(*sys.argv[1:3])


def parse(kind: str, argv: list[str]) -> tuple[Path, Callable[[], Config]]:
    """Read the arguments of a call as its executable does.

    Raises:
        SystemExit: they are wrong; that has been printed.
    """
    from uspex_bridge.base.files import named
    from uspex_bridge.cli import external, vasp

    command = vasp.command if kind == "vasp" else external.command
    try:
        options = dict(command.make_context(f"uspex-bridge-{kind}", list(argv)).params)
    except click.ClickException as error:
        vasp.wrong_usage(error, f"uspex-bridge-{kind}")
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    folder = named(options.pop("folder"))
    return folder, lambda: vasp.read_settings(folder, options)


def _settings(options: dict[str, Any]) -> Config:
    from uspex_bridge.call.config import load_config

    config = load_config(Path.cwd(), options["config"])
    given = {key: options[key] for key in ("workers", "batch", "idle_timeout") if options[key] is not None}
    return replace(config, threads=options["threads"] or config.threads, service=replace(config.service, **given))


class _Quiet(RotatingFileHandler):
    """A log that a full disk does not end."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Go on without this line."""


def _log(path: Path, *, screen: bool) -> logging.Logger:
    """Return the service's log: a rotated file, and stderr."""
    log = logging.Logger("uspex_bridge.service", logging.INFO)
    handlers: list[logging.Handler] = [logging.StreamHandler()] if screen else []
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handlers.append(_Quiet(path, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES, encoding="utf-8", delay=True))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
        log.addHandler(handler)
    logging.getLogger("asyncio").handlers = handlers
    return log


def _hush() -> None:
    """Let go of the stderr that whoever started this listens to."""
    hush(2)


def _keep() -> None:
    """Keep the screen."""
