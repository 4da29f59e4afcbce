"""table.md from the cells."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

from rows import Row

_HEAD = """<!-- made by benchmarks/peers/run.py; do not edit -->
| what a USPEX user needs | {names} |
|---|{rules}
"""
_TAIL = """
Every cell is what `benchmarks/peers/run.py` found by running the tool on the same folders (figures:
[table.json](table.json)). Energies and stresses are judged against the tool's own model, evaluated apart from the
tool through ASE. The cells are CaFeNi4 (6 atoms), distorted by 3 %; the model is CHGNet 0.3.0 for uspex_bridge,
vpmdk and macer, and the MACE in `{mace}` for vasp-mace, which runs nothing else. One thread; CPU times are
{calls}, the wall time through a server is the shortest of {warm}, on a machine busy with other work. macer reads
no INCAR: pressure, ISIF, steps and fmax went on its command line. Where a cell says `with ...`, the default does
not do it.

To run it again, make one environment per peer and give it theirs:

```bash
for peer in vpmdk vasp-mace macer; do python3.11 -m venv $peer; $peer/bin/pip install torch==2.13.0; done
echo torch==2.13.0 > c.txt
vpmdk/bin/pip install -c c.txt vpmdk=={vpmdk} chgnet=={chgnet}
vasp-mace/bin/pip install -c c.txt vasp-mace=={vasp_mace}
macer/bin/pip install --no-deps macer=={macer}    # its full requirements are over 200 packages; relaxing needs these:
macer/bin/pip install -c c.txt chgnet=={chgnet} "numpy<2.3" vise==0.9.5 pyyaml phonopy==2.47.1 seekpath torch_ema
.venv/bin/python benchmarks/peers/run.py --vpmdk vpmdk --vasp-mace vasp-mace --macer macer \\
    --mace-model examples/demo_weights/mace-demo-cafeni.model --work DIR
```

The readers were ASE {ase}, pymatgen {pymatgen} and dpdata {dpdata}; torch {torch}.
"""


def markdown(table: list[tuple[Row, list[Any]]], versions: dict[str, str], mace: Path, rounds: int, warm: int) -> str:
    """Return the table, what it rests on, and how to make it again."""
    text = _HEAD.format(names=" | ".join(f"{n} {v}" for n, v in versions.items()), rules="---|" * len(versions))
    group = ""
    for row, cells in table:
        if row.group != group:
            group = row.group
            text += f"| **{group}** |" + " |" * len(cells) + "\n"
        text += f"| {row.title} | " + " | ".join(cell.markdown() for cell in cells) + " |\n"
    installed = {name: importlib.metadata.version(name) for name in ("torch", "ase", "pymatgen", "dpdata", "chgnet")}
    peers = {name.replace("-", "_"): version for name, version in versions.items()}
    return text + _TAIL.format(
        mace=mace.name,
        warm=warm,
        calls="of one call each" if not rounds else f"medians over {rounds + 1} calls",
        **peers,
        **installed,
    )
