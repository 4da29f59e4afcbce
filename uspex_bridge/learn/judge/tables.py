"""What came out about models as tables: rows of plain values, and text for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from uspex_bridge.base.tables import layout
from uspex_bridge.learn.judge import metrics
from uspex_bridge.learn.judge.accuracy import Accuracy, Judged
from uspex_bridge.learn.judge.cases import Error

#: Columns of the table: quantity -> heading and unit.
_QUANTITIES = {
    "energy": ("E", "meV/atom"),
    "forces": ("F", "meV/Å"),
    "virial": ("W", "meV/atom"),
    "pv": ("PV", "meV/atom"),
    "pressure": ("P", "GPa"),
    "stress": ("S", "GPa"),
}
#: Those of the table for the terminal, and those that several models are compared in, line by line.
_SHOWN = ("energy", "forces", "virial", "pv", "pressure")
_COMPARED = ("pv", "pressure", "energy", "forces")


def error_rows(report: Accuracy) -> list[dict[str, Any]]:
    """Return the table of errors as rows of plain values, in meV/atom, meV/Å and GPa."""
    made = []
    for model in report.models:
        for row in model.rows:
            errors = {
                f"{short}_{kind}_{unit.replace('/', '_per_').replace('Å', 'A')}": round(
                    _factor(unit) * getattr(getattr(row, quantity), kind), 3
                )
                for quantity, (short, unit) in _QUANTITIES.items()
                for kind in ("mae", "rmse", "largest")
            }
            made.append(
                {
                    "model": model.name,
                    "pressure": row.label,
                    "structures": row.count,
                    **errors,
                    "pairs": row.order.pairs if row.order else None,
                    "wrong_order": row.order.wrong if row.order else None,
                    "pair_mae_meV_per_atom": round(1000 * row.order.error, 3) if row.order else None,
                    "near_50mev": row.near,
                    "near_rmse": row.near_rmse,
                }
            )
    return made


def tables(report: Accuracy) -> str:
    """Return all tables for the terminal."""
    parts = [_error_table(model, named=len(report.models) > 1) for model in report.models]
    if len(report.models) > 1:
        parts += [comparison_table(report, quantity) for quantity in _COMPARED]
    if any(model.rankings for model in report.models):
        parts.append(_ranking_table(report))
    if report.disagreements:
        parts.append(_disagreement_table(report))
    return "\n\n".join(parts)


def _error_table(model: Judged, *, named: bool) -> str:
    """Return the errors of a model in tables that a terminal holds, one below the other."""
    first = [("structures", [str(row.count) for row in model.rows])]
    last: list[tuple[str, list[str]]] = []
    if any(row.order for row in model.rows):
        pairs = [(str(row.order.pairs), str(row.order.wrong)) if row.order else ("", "") for row in model.rows]
        last += zip(("pairs", "wrong"), map(list, zip(*pairs, strict=True)), strict=True)
    if any(row.near is not None for row in model.rows):
        for name, counts in (
            ("N(<50)", [row.near for row in model.rows]),
            ("N(<RMSE)", [r.near_rmse for r in model.rows]),
        ):
            last.append((name, ["" if count is None else str(count) for count in counts]))
    parts = [
        _block(model, _SHOWN[:2], first, []),
        _block(model, _SHOWN[2:4], [], []),
        _block(model, _SHOWN[4:], [], last),
    ]
    title = f"{model.short} ({model.title})\n" if named else f"{model.title}\n"
    return title + "\n".join(parts)


def _block(
    model: Judged,
    quantities: Sequence[str],
    before: Sequence[tuple[str, list[str]]],
    after: Sequence[tuple[str, list[str]]],
) -> str:
    """Return the errors of some quantities, between columns of a name and a cell per line."""
    headings = [("", ""), *((name, "") for name, _ in before)]
    columns = [[row.label for row in model.rows], *(cells for _, cells in before)]
    for quantity in quantities:
        short, unit = _QUANTITIES[quantity]
        for name, kind in ((f"{short} MAE", "mae"), ("RMSE", "rmse"), ("max", "largest")):
            headings.append((name, unit))
            columns.append([_number(_factor(unit) * getattr(getattr(row, quantity), kind)) for row in model.rows])
    headings += [(name, "") for name, _ in after]
    return layout(headings, list(zip(*columns, *(cells for _, cells in after), strict=True)))


def comparison_table(report: Accuracy, quantity: str) -> str:
    """Return one quantity's mean absolute error of every model, line by line."""
    short, unit = _QUANTITIES[quantity]
    labels = list(dict.fromkeys(row.label for model in report.models for row in model.rows))
    lines = []
    for model in report.models:
        found = {row.label: getattr(row, quantity) for row in model.rows}
        lines.append([model.short, *(_mean(found.get(label), _factor(unit)) for label in labels)])
    ends = [label.rpartition(" GPa") for label in labels]
    names = [(first or last, sign.strip()) for first, sign, last in ends]
    return layout([(f"{short} MAE", unit), *names], lines)


def _mean(error: Error | None, factor: float) -> str:
    return "" if error is None else _number(factor * error.mae)


def _factor(unit: str) -> float:
    """Return what eV or GPa are multiplied with to be in a unit."""
    return 1000.0 if unit.startswith("meV") else 1.0


def _number(value: float) -> str:
    """Return a number with one decimal, or two where it is below 10, or none from 1000 on."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _ranking_table(report: Accuracy) -> str:
    headings = [
        ("near the hull", ""),
        ("pressure", "GPa"),
        ("within", ""),
        ("rank corr.", ""),
        ("E_form MAE", "meV/atom"),
        ("stable", ""),
    ]
    headings += [(f"in {1000 * window:g} meV", "") for window in metrics.WINDOWS]
    headings.append(("needs", "meV/atom"))
    lines = [
        [
            model.short,
            f"{one.pressure_gpa:g}",
            str(one.within),
            "" if one.spearman != one.spearman else f"{one.spearman:.3f}",
            f"{1000 * one.error:.1f}",
            str(one.stable),
            *(str(found) for found in one.recalled.values()),
            f"{1000 * one.needed:.1f}",
        ]
        for model in report.models
        for one in model.rankings
    ]
    return layout(headings, lines)


def _disagreement_table(report: Accuracy) -> str:
    headings = [
        ("between", ""),
        ("ΔE MAE", "meV/atom"),
        ("ΔF MAE", "meV/Å"),
        ("ΔPV MAE", "meV/atom"),
        ("max", "meV/atom"),
    ]
    headings += [(f"over {1000 * limit:g}", "") for limit in metrics.PV_LIMITS]
    short = {model.name: model.short for model in report.models}
    lines = [
        [
            " - ".join(short[name] for name in one.models),
            *(_number(1000 * value) for value in (one.energy.mae, one.forces.mae, one.pv.mae, one.pv.largest)),
            *(str(count) for count in one.over.values()),
        ]
        for one in report.disagreements
    ]
    return layout(headings, lines)
