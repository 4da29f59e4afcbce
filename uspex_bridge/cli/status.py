"""``uspex-bridge status``: what the service does."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from uspex_bridge.base.words import counted, duration
from uspex_bridge.cli.options import SOCKET

#: Seconds between two looks at a terminal.
_EVERY = 1.0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@click.option("--once", is_flag=True, help="Single output; in a terminal the default is to refresh until Ctrl-C.")
@SOCKET
def command(socket: str | None, as_json: bool, once: bool) -> None:
    """Show queue, running jobs, throughput, failures by reason, time per model and memory of the service."""
    from uspex_bridge.service.local import reach

    status = reach(socket, {"do": "status"})
    if as_json:
        click.echo(json.dumps(status, indent=1, ensure_ascii=False))
    elif once or not sys.stdout.isatty():
        click.echo(describe(status))
    else:
        try:
            while True:
                click.clear()
                click.echo(describe(status))
                time.sleep(_EVERY)
                status = reach(socket, {"do": "status"})
        except KeyboardInterrupt:
            click.echo()


def describe(status: dict[str, Any]) -> str:
    """Return the status as a person wants it."""
    workers, batchers = status["workers"], status["batchers"]
    memory = sum(each["memory_mb"] or 0.0 for each in (status, *workers, *batchers))
    lines = [
        f"service {status['pid']} ({status['version']}) at {status['listens']}, "
        f"up {duration(status['uptime_s'])}{', stopping' if status['stopping'] else ''}",
        f"{status['queued']} queued (longest {duration(status['longest_wait_s'])}), {len(status['running'])} running, "
        f"{status['jobs']} done, {status['per_minute']:g} structures/min",
        f"{len(workers)} of at most {counted(status['most_workers'], 'worker')}, {memory:.0f} MB in all; "
        f"{status['shape']}",
    ]
    if dask := status.get("dask"):
        hosts = ", ".join(sorted({worker["host"] for worker in workers}))
        lines.append(f"with the Dask scheduler at {dask}: {f'workers on {hosts}' if hosts else 'no worker yet'}")
    for title, counts in (("outcomes", "outcomes"), ("failures", "failures"), ("events", "events")):
        if status[counts]:
            lines.append(f"{title}: " + ", ".join(f"{n} {word}" for word, n in sorted(status[counts].items())))
    for name, counts in status["models"].items():
        each = 1000 * counts["seconds"] / max(counts["evaluations"], 1)
        spent = f"{counts['evaluations']} evaluations in {counts['seconds']:.1f} s of relaxations"
        lines.append(f"{name}: {spent}, {each:.1f} ms each")
    for batcher in batchers:
        lines.extend(_batcher(batcher))
    progress = [_progress(job) for job in status["running"]]
    width = max(map(len, progress), default=0)
    lines.extend(
        f"  {duration(job['seconds']):>10}  worker {job['worker']}  {text:{width}}  {job['folder']}"
        for job, text in zip(status["running"], progress, strict=True)
    )
    return "\n".join(lines)


def _batcher(batcher: dict[str, Any]) -> Iterator[str]:
    """Yield what a batcher does: of the last minute, where it is a rate."""
    gpus = batcher.get("gpu_mb", {})
    memory = [f"{mb:.0f} of {batcher['gpu_total_mb'][name]:.0f} MB of {name}" for name, mb in gpus.items()]
    own = f"{batcher['memory_mb']:.0f} MB" if batcher["memory_mb"] else ""
    loading = f"; loading {batcher['loading']}" if batcher["loading"] else ""
    about = ", ".join(filter(None, [f"{batcher['relaxations']} relaxations", own, *memory]))
    yield f"batcher {batcher['pid']}: {about}{loading}"
    for name, model in batcher["models"].items():
        yield (
            f"  {name} on {model['device']}: {model['structures_per_pass']:g} structures and "
            f"{model['atoms_per_pass']:g} atoms per pass, {model['per_second']:g} evaluations/s, "
            f"{100 * model['busy']:.0f} % busy"
            + (f", ran out of memory {n} times" if (n := model["overflows"]) else "")
        )


def _progress(job: dict[str, Any]) -> str:
    if "stage" not in job:
        return f"{job.get('formula') or ''} starting".strip()
    return f"{job.get('formula') or ''} {job['stage']} step {job['step']} fmax {job['fmax']:.4f} eV/Å"
