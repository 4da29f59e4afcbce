"""Options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


class Finite(click.FloatRange):
    """A number, in a range where one is given; ``nan`` is none, and ``inf`` only where that makes sense."""

    def __init__(self, *args: Any, infinite: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self.infinite = infinite

    def _describe_range(self) -> str:
        """Return the range for the help; click has no words for a number without bounds."""
        return "" if self.min is None and self.max is None else super()._describe_range()

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Convert a word; a wrong one ends the command with a line about it."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number) or (math.isinf(number) and not self.infinite):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Settings file.  [default: $USPEX_BRIDGE_CONFIG, then the first bridge.toml from this folder upwards]",
)
PROTOCOL = click.option("--protocol", help="Named protocol or a TOML file.  [default: that of the settings, else auto]")
STAGES = click.option("--stages", help="Stages of the protocol to run: 1, 2-3, robust.  [default: all]")
DEVICE = click.option("--device", help="Device: auto, cpu, cuda or cuda:N.  [default: that of the settings, else auto]")
THREADS = click.option(
    "--threads", type=click.IntRange(min=1), help="Number of CPU threads.  [default: that of the settings, else 1]"
)
TIME_LIMIT = click.option(
    "--time-limit",
    type=Finite(min=0, min_open=True, infinite=True),
    help="Time limit, s; the result is then the best geometry so far.  [default: that of the settings, else 7200]",
)
SERVER = click.option(
    "--server",
    type=click.Choice(["auto", "off", "start", "require"]),
    expose_value=False,
    help="Use of a service: a running one, none, start one, or fail without one.  [default: that of the settings, "
    "else auto]",
)
SOCKET = click.option(
    "--socket",
    metavar="PATH",
    help="Socket of the service.  [default: $USPEX_BRIDGE_SOCKET, else one in /tmp]",
)
WORKERS = click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of processes that share the structures.",
)
SCHEDULER = click.option(
    "--dask",
    "scheduler",
    metavar="ADDRESS",
    help="Address or file of a Dask scheduler for workers on other nodes.  [default: processes of this machine]",
)


MODEL = click.option(
    "-m", "--model", help="Model: a calculator's name, or KIND:WEIGHTS (mace:my.model).  [default: the protocol's]"
)
FORCE = click.option("--force", is_flag=True, help="Overwriting of existing files.")


def pressures_of(text: str) -> list[float]:
    """Read pressures: ``50``, ``0,20,50`` or ``0:100:10`` (end included), GPa.

    Raises:
        ConfigError: it is none of these.
    """
    return numbers_of(text, "pressures", "GPa")


def numbers_of(text: str, what: str, unit: str) -> list[float]:
    """Read numbers: ``50``, ``0,20,50`` or ``0:100:10`` (end included), sorted.

    Args:
        text: as the user wrote it.
        what: for messages.
        unit: for messages.

    Raises:
        ConfigError: it is none of these.
    """
    from uspex_bridge.base.errors import ConfigError

    try:
        words = [float(word) for word in text.split(":" if ":" in text else ",")]
        if not all(math.isfinite(word) for word in words):
            raise ValueError
        if ":" not in text:
            return sorted(set(words))
        first, last, step = words
    except ValueError:
        raise ConfigError(f"{what} {text}: give FROM:TO:STEP or a list such as 0,20,50, in {unit}") from None
    if step <= 0 or last < first:
        raise ConfigError(f"{what} {text}: the range is empty; give FROM:TO:STEP, in {unit}")
    return [round(first + k * step, 6) for k in range(int((last - first) / step + 1e-9) + 1)]


def settings(*options: Callable[..., Any]) -> Callable[..., Any]:
    """Combine several option decorators into one."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


RUN_OPTIONS = settings(CONFIG, PROTOCOL, STAGES, DEVICE, THREADS, TIME_LIMIT)
#: The names of their values.
RUN_SETTINGS = ("config", "protocol", "stages", "device", "threads", "time_limit")
#: Who does the work of a command that has many structures.
PARALLEL = settings(WORKERS, SCHEDULER)
