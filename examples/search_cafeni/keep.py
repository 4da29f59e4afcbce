"""Copy what is worth keeping of a search: its results folder and, of the record, the end of each relaxation.

    python examples/search_cafeni/keep.py SEARCH examples/search_cafeni/50GPa

Numbers of the record are cut to seven digits; names of machines and folders are left out.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click

RECORD = "bridge.record"
LEFT_OUT = ("folder", "host", "versions", "input")


def short(value: Any) -> Any:
    """Return plain values with their numbers cut to seven digits."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, list):
        return [short(one) for one in value]
    if isinstance(value, dict):
        return {key: short(one) for key, one in value.items()}
    return value


@click.command()
@click.argument("search", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("into", type=click.Path(path_type=Path, file_okay=False))
def main(search: Path, into: Path) -> None:
    """Copy the results of SEARCH INTO a folder."""
    shutil.rmtree(into, ignore_errors=True)
    shutil.copytree(search / "results1", into / "results1", ignore=shutil.ignore_patterns("generation*"))
    lines = [json.loads(line) for line in (search / RECORD).read_text().splitlines()]
    last = max(line["step"] for line in lines if line["nsw"])
    with (into / RECORD).open("w") as stream:
        for line in lines:
            if line["step"] == last or "enthalpy" not in line:
                kept = short({key: value for key, value in line.items() if key not in LEFT_OUT})
                stream.write(json.dumps(kept, separators=(",", ":"), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
