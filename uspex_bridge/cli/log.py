"""``uspex-bridge log``: what happened to structure 137?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from uspex_bridge.base.words import counted
from uspex_bridge.cli.questions import JSON


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("which", required=False)
@click.option(
    "--record",
    type=click.Path(path_type=Path),
    default=Path("."),
    help="Record (bridge.record), or folder of the search with it.  [default: here]",
)
@click.option(
    "--status",
    type=click.Choice(["converged", "unconverged", "rejected", "failed", "penalty"]),
    help="Status of the entries.  [default: any]",
)
@click.option(
    "-n", "--last", type=click.IntRange(min=1), help="Largest number of entries, the last ones.  [default: all]"
)
@JSON
def command(which: str | None, record: Path, status: str | None, last: int | None, as_json: bool) -> None:
    """Show the relaxations in the record: all entries, or those of WHICH.

    WHICH is a USPEX ID (137 or EA137), the name of a working folder (CalcFold3, or 7 of CrySPY), the first line of
    POSCAR, a formula, or the start of an entry's key. In the MATLAB line the bridge does not know the final ID; a
    structure is then found by its starting geometry.

    Example: uspex-bridge log 137 --record search
    """
    from uspex_bridge.results.reading.lookup import UNITS, find, find_record, table

    entries = find(record, which)
    if status:
        entries = [entry for entry in entries if entry.get("status") == status]
    entries = entries[-last:] if last else entries
    if as_json:
        document = {"units": UNITS, "record": str(find_record(record)), "entries": entries}
        click.echo(json.dumps(document, indent=1, ensure_ascii=False))
        return
    if not entries:
        raise click.ClickException(
            f"no entry{f' for {which}' if which else ''}" + (f" with status {status}" if status else "")
        )
    detailed = which is not None and len(entries) <= 20
    click.echo(table(entries, stages=detailed))
    if not detailed:
        click.echo(_totals(entries))


def _totals(entries: list[dict[str, Any]]) -> str:
    from uspex_bridge.call.record_line import ending

    counts: dict[str, int] = {}
    for entry in entries:
        word = ending(entry) + (f" ({entry['code']})" if entry.get("code") else "")
        counts[word] = counts.get(word, 0) + 1
    return f"{counted(len(entries), 'entry')}: " + ", ".join(f"{n} {word}" for word, n in sorted(counts.items()))
