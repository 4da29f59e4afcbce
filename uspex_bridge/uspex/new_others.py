"""Ready folders for USPEX 26 and for CrySPY, which starts VASP as USPEX does."""

from __future__ import annotations

import json
from pathlib import Path

from uspex_bridge.base.errors import ConfigError
from uspex_bridge.base.templates import render
from uspex_bridge.base.units import gpa_to_kbar
from uspex_bridge.uspex.new_search import Rendered, Search, decimal, incars, input_values, settings_text, stub
from uspex_bridge.vasp.incar import parse_incar


def uspex26(search: Search) -> list[Rendered]:
    """Return INPUT.txt of USPEX 26 with abinitioCode 20 in every step, and bridge.toml.

    Both lie in the search's own folder: USPEX 26 makes Specific anew.
    """
    values = input_values(search) | {
        "codes": " ".join(["20"] * search.steps),
        "command": f"{search.command} > bridge.out 2>&1",
    }
    asked = [parse_incar(text) for text in incars(search)]
    tags = ["; ".join(f"{tag} = {value}" for tag, value in one.items() if tag != "NELM") for one in asked]
    external = {
        "pressure": decimal(search.pressure),
        "tags": "\n".join(f"    {json.dumps(line)}," for line in tags),
    }
    settings = settings_text(search) + render("uspex26/bridge.toml", external)
    return [
        Rendered(Path("INPUT.txt"), render("uspex26/INPUT.txt", values)),
        Rendered(Path("bridge.toml"), settings),
    ]


def cryspy(search: Search) -> list[Rendered]:
    """Return a random search of CrySPY at a fixed composition, with one INCAR per stage.

    Raises:
        ConfigError: the composition varies.
    """
    if search.counts is None:
        raise ConfigError("init cryspy writes a random search at a fixed composition; give --composition Mg4Al8O16")
    values = {
        "population": search.population,
        "steps": search.steps,
        "parallel": search.parallel,
        "symbols": " ".join(search.elements),
        "counts": " ".join(map(str, search.counts)),
        "kppvol": " ".join(["40"] * search.steps),
    }
    pressure = f"PSTRESS = {gpa_to_kbar(search.pressure):g}\n"
    folder = Path("calc_in")
    return [
        Rendered(Path("cryspy.in"), render("cryspy/cryspy.in", values)),
        Rendered(folder / "job_cryspy", render("cryspy/job_cryspy", {"command": search.command})),
        *(Rendered(folder / f"INCAR_{n}", text + pressure) for n, text in enumerate(incars(search), 1)),
        Rendered(folder / "POTCAR", "".join(stub(symbol) for symbol in search.elements)),
        Rendered(Path("bridge.toml"), settings_text(search)),
    ]
