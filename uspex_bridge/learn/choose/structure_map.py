"""The map of a set of structures: principal components of their descriptors, and what chemiscope reads of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from uspex_bridge.base.data import Array, Structure
from uspex_bridge.base.errors import ConfigError, InputError
from uspex_bridge.base.files import write_whole
from uspex_bridge.learn.choose.hulls import points_of
from uspex_bridge.learn.choose.soap import Coverage, Scaling, SoapSettings, Space, coverage, describe_all, fit_space
from uspex_bridge.results.hulls.hull import HullPoint
from uspex_bridge.results.reading.convert import to_ase
from uspex_bridge.results.reading.model import NAN, Entry, Pool

Colour = Literal["pressure", "composition", "energy", "distance"]
COLOURS: tuple[Colour, ...] = ("pressure", "composition", "energy", "distance")
#: Endings of chemiscope's datasets, and of pages with it and one in them.
DATASETS, VIEWERS = (".json", ".gz"), (".html",)


@dataclass(frozen=True, eq=False)
class StructureMap:
    """Structures in the plane of their principal components.

    Attributes:
        entries: the structures that could be read.
        features: (N, F) descriptors; coordinates: (N, K) principal components.
        elements: what the descriptor distinguishes.
        settings: of the descriptor.
        space: the map from one to the other.
        points: places on the hulls by name of the entry (see :func:`uspex_bridge.learn.choose.hulls.points_of`).
        notes: what the user must know.
    """

    entries: tuple[Entry, ...]
    features: Array
    coordinates: Array
    elements: tuple[str, ...]
    settings: SoapSettings
    space: Space
    points: dict[str, HullPoint]
    notes: tuple[str, ...]

    def values(self, colour: Colour) -> dict[str, Array]:
        """Return what to colour by: label -> (N,) values, NaN where unknown; of ``composition`` one per element."""
        if colour == "composition":
            shares = [{s: n / e.natoms for s, n in e.composition} for e in self.entries]
            return {
                f"{element} (atomic fraction)": _row(s.get(element, 0.0) for s in shares) for element in self.elements
            }
        if colour == "pressure":
            return {"pressure (GPa)": _row(NAN if e.pressure_gpa is None else e.pressure_gpa for e in self.entries)}
        found = [self.points.get(entry.name) for entry in self.entries]
        if colour == "energy":
            return {"formation enthalpy (eV/atom)": _row(NAN if p is None else p.formation for p in found)}
        return {"enthalpy above hull (eV/atom)": _row(NAN if p is None else p.above for p in found)}

    def coverage(self, names: Collection[str] | None = None) -> Coverage:
        """Measure what the entries called ``names`` (all by default) cover of the whole map."""
        chosen = None if names is None else np.array([entry.name in names for entry in self.entries])
        return coverage(self.coordinates, chosen)


def make_map(
    pool: Pool,
    settings: SoapSettings,
    scaling: Scaling = "standard",
    references: Collection[str] = (),
    *,
    elements: Sequence[str] = (),
    mix_levels: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> StructureMap:
    """Describe every structure of ``pool`` that can be read and fit the map to them.

    Args:
        pool: the structures.
        settings: of the descriptor; elements: what it distinguishes, by default those that occur.
        scaling: see :class:`uspex_bridge.learn.choose.soap.Space`.
        references: see :func:`uspex_bridge.learn.choose.hulls.points_of`.
        elements: see ``settings``.
        mix_levels: see :func:`uspex_bridge.learn.choose.hulls.points_of`.
        progress: called after each structure.

    Raises:
        InputError: there is no structure.
    """
    occurring = elements or sorted({symbol for entry in pool.entries for symbol, _ in entry.composition})
    entries: list[Entry] = []

    def readable() -> Iterator[Structure]:
        for entry, structure in pool.structures():
            entries.append(entry)
            yield structure

    rows = []
    for vector in describe_all(readable(), occurring, settings):
        rows.append(vector)
        progress()
    if not rows:
        raise InputError("there is no structure to describe")
    features = np.array(rows)
    space = fit_space(features, scaling)
    points, notes = points_of(pool, references, mix_levels=mix_levels)
    return StructureMap(
        tuple(entries), features, space.place(features), tuple(occurring), settings, space, points, tuple(notes)
    )


def write_dataset(drawn: StructureMap, pool: Pool, path: Path, colour: Colour, selected: Collection[str] = ()) -> None:
    """Write the map as a chemiscope dataset or as a page with chemiscope in it, by the file's ending.

    Raises:
        ModuleNotFoundError: chemiscope is missing.
        OutputError: the file cannot be written.
    """
    ending = path.suffix.lower()
    dataset = chemiscope_dataset(drawn, pool, colour, selected)
    text = page_of(dataset) if ending in VIEWERS else _as_json(dataset)
    write_whole(path, _zipped(text) if ending == ".gz" else text)


def chemiscope_dataset(
    drawn: StructureMap, pool: Pool, colour: Colour, selected: Collection[str] = ()
) -> dict[str, Any]:
    """Return the map as chemiscope's input: structures, coordinates, and all there is to colour by.

    Raises:
        ModuleNotFoundError: chemiscope is not installed.
    """
    import chemiscope

    structures = {entry.name: to_ase(entry, structure) for entry, structure in pool.structures(drawn.entries)}
    properties: dict[str, Any] = {
        f"PC{k}": _property(column, f"{100 * drawn.space.explained[k - 1]:.1f} % of the variance")
        for k, column in enumerate(drawn.coordinates[:, :3].T, 1)
    }
    for name in COLOURS:
        for label, row in drawn.values(name).items():
            if np.isfinite(row).any():
                properties[label] = _property(row)
    properties["volume (Å³/atom)"] = _property(_row(entry.volume_per_atom for entry in drawn.entries))
    for label, words in {
        "name": [entry.name for entry in drawn.entries],
        "origin": [entry.origin or "unknown" for entry in drawn.entries],
        **({"chosen": ["yes" if e.name in selected else "no" for e in drawn.entries]} if selected else {}),
    }.items():
        properties[label] = {"target": "structure", "values": words}
    shown = next((label for label in drawn.values(colour) if label in properties), "PC1")
    made: dict[str, Any] = chemiscope.create_input(
        structures=[structures[entry.name] for entry in drawn.entries],
        metadata={"name": "Structure map", "description": f"{drawn.settings.describe()}. {drawn.space.describe()}."},
        properties=properties,
        settings={
            "map": {
                "x": {"property": "PC1"},
                "y": {"property": "PC2"},
                "color": {"property": shown},
                "palette": "viridis",
                **({"symbol": "chosen"} if selected else {}),
            },
            "structure": [{"unitCell": True, "bonds": False, "supercell": {"0": 2, "1": 2, "2": 2}}],
        },
    )
    return made


def page_of(dataset: dict[str, Any]) -> str:
    """Return a self-contained page: the dataset, and the viewer that the chemiscope package brings."""
    import chemiscope

    viewer = Path(chemiscope.__file__).parent / "sphinx" / "static" / "chemiscope.min.js"
    try:
        script = viewer.read_text(encoding="utf-8")
    except OSError:
        raise ConfigError(
            f"chemiscope {chemiscope.__version__} comes without its viewer; write .json.gz for chemiscope.org instead"
        ) from None
    return (
        _PAGE.replace("@TITLE@", dataset["meta"]["name"])
        .replace("@DATA@", _as_json(dataset).replace("</", "<\\/"))
        .replace("@VIEWER@", script.replace("</script", "<\\/script"))
    )


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>@TITLE@</title>
<style>
html, body { margin: 0; height: 100%; overflow: hidden; font-family: sans-serif; }
#page { display: flex; height: 100vh; }
#left, #right { display: flex; flex-direction: column; width: 50%; height: 100%; min-width: 0; }
#map, #structure { flex: 1; min-height: 0; position: relative; }
#problem { color: #a00; padding: 0.5em; }
</style>
</head>
<body>
<div id="problem"></div>
<div id="page">
<div id="left"><div id="meta"></div><div id="map"></div></div>
<div id="right"><div id="structure"></div><div id="info"></div></div>
</div>
<script>@VIEWER@</script>
<script id="data" type="application/json">@DATA@</script>
<script>
const unknown = "not a number";
const text = document.getElementById("data").textContent.replace(/\\bNaN\\b/g, JSON.stringify(unknown));
const dataset = JSON.parse(text, (key, value) => (value === unknown ? NaN : value));
const problem = (message) => { document.getElementById("problem").textContent = message; };
const warnings = new Chemiscope.Warnings();
warnings.addHandler(problem);
Chemiscope.DefaultVisualizer.load(
  { meta: "meta", map: "map", info: "info", structure: "structure" }, dataset, warnings
).catch((error) => problem(String(error)));
</script>
</body>
</html>
"""


def _property(values: Array, description: str = "") -> dict[str, Any]:
    made: dict[str, Any] = {"target": "structure", "values": values.tolist()}
    return made | ({"description": description} if description else {})


def _row(values: Any) -> Array:
    return np.array([float(value) for value in values])


def _as_json(dataset: dict[str, Any]) -> str:
    return json.dumps(dataset, ensure_ascii=False, separators=(",", ":"))


def _zipped(text: str) -> bytes:
    import gzip

    return gzip.compress(text.encode(), mtime=0)
