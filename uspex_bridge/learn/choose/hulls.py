"""Where the structures of several searches lie above their own hulls, one hull for each pressure."""

from __future__ import annotations

from collections.abc import Collection

from uspex_bridge.base.errors import BridgeError, InputError
from uspex_bridge.results.hulls.hull import HullPoint, at_pressure, build_hull, one_level
from uspex_bridge.results.hulls.stability import blocks_of, refuse_without_hull, without_holes
from uspex_bridge.results.reading.model import Pool


def points_of(
    pool: Pool, references: Collection[str] = (), *, mix_levels: bool = False
) -> tuple[dict[str, HullPoint], list[str]]:
    """Return the places on the hulls by name of the entry, and what the user must know.

    Entries without an enthalpy have none, nor have those of a pressure at which there is no hull.

    Args:
        pool: what to place; references: the labels of sources that are only there to span the hulls.
        references: labels of sources that take part in every hull.
        mix_levels: put several levels of theory on one hull.
    """
    points: dict[str, HullPoint] = {}
    notes: list[str] = []
    try:
        refuse_without_hull(pool)
    except InputError as error:
        return {}, [f"no distances to the hull: {error}"]
    own = [entry for entry in pool.entries if entry.valid and entry.run not in references]
    extra = [entry for entry in pool.entries if entry.valid and entry.run in references]
    for pressure in dict.fromkeys(entry.pressure_gpa for entry in own):
        part = [*(entry for entry in own if entry.pressure_gpa == pressure), *extra]
        try:
            notes += one_level(part, mix=mix_levels)
            moved, warnings = at_pressure(part, pressure)
            taking_part, left = without_holes(moved)
            warnings += left
            points |= build_hull(taking_part, None, blocks_of(pool)).by_name
        except BridgeError as error:
            at = "unknown pressure" if pressure is None else f"{pressure:g} GPa"
            notes.append(f"no distances to the hull at {at}: {error}")
        else:
            notes += warnings
    return points, list(dict.fromkeys(notes))
