"""Labels beside points: none on another, none across a line that leads to another, few over points and lines.

The kept libraries do less here. adjustText moves labels by forces and leaves some on others; textalloc takes the first
free place in order, and neither draws into a part of a figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from uspex_bridge.base.data import Array
from uspex_bridge.figures import style

#: Points between a point and its label that are tried, and directions in degrees.
_RADII = (4.0, 6.5, 9.5, 13.0, 18.0, 24.0, 31.0, 40.0, 51.0, 64.0, 80.0)
_ANGLES = np.arange(0.0, 360.0, 15.0)
#: A line leads to a label that is farther away than this, points.
_NEAR = 7.0
#: Points that labels stay away from other points: a marker's radius.
_CLEAR = 2.4
#: Prices: of what must not be, of two crossing leaders, of a covered point, of a covered line, of a crossed line, of a
#: point that a leader runs over.
_HARD, _CROSSED, _POINT, _LINE, _OVER, _THROUGH = 1e4, 300.0, 25.0, 45.0, 8.0, 12.0
#: Behind labels, so that they can be read over points.
_BACK = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.3}


@dataclass
class _Label:
    """Where a label may stand: candidates (N, 2) with their corners, ends of leaders and prices (N,), pixels."""

    anchor: Array
    low: Array
    high: Array
    end: Array
    price: Array
    chosen: int = -1

    def settled(self) -> _Label:
        """Return it with the chosen place alone."""
        only = slice(self.chosen, self.chosen + 1)
        return _Label(self.anchor, self.low[only], self.high[only], self.end[only], self.price[only], 0)


def place_labels(
    axes: Axes,
    anchors: Sequence[tuple[float, float]],
    texts: Sequence[str],
    *,
    avoid: Iterable[tuple[float, float]] = (),
    lines: Iterable[Sequence[tuple[float, float]]] = (),
    towards: float | Sequence[float] = 90.0,
    gap: float = 0.0,
    colours: Sequence[str] = (),
) -> int:
    """Write a label beside each anchor, with a line where it is far; return how many found no free place.

    Call it last, when limits and layout are final. Labels that come first are the last to be left out.

    Args:
        axes: where.
        anchors: points to be labelled, data coordinates.
        texts: their labels.
        avoid: further points that labels should not cover; texts in the axes are not covered either.
        lines: pairs of points between which there is a line not to be covered.
        towards: direction that is best, degrees from the x axis; of all or of each.
        gap: what markers need more than a small one, pt.
        colours: of each label; ink by default.
    """
    if not texts:
        return 0
    figure = cast(Figure, axes.figure)
    figure.get_figure(root=True).draw_without_rendering()
    scale = figure.dpi / 72
    spots = axes.transData.transform(np.array(anchors, dtype=float).reshape(-1, 2))
    points = axes.transData.transform(np.array([*anchors, *avoid], dtype=float).reshape(-1, 2))
    points = np.vstack([points, *(_outline(text) for text in axes.texts)])
    ends = np.array(list(lines), dtype=float).reshape(-1, 2)
    segments = axes.transData.transform(ends).reshape(-1, 2, 2)
    frame = axes.get_window_extent()
    best = np.broadcast_to(np.asarray(towards, dtype=float), len(texts))
    drawn, labels = [], []
    for k, text in enumerate(texts):
        colour = colours[k] if colours else None
        label = axes.text(
            0, 0, text, fontsize=style.FORMULA, color=colour, va="center", ha="center", zorder=10, bbox=_BACK
        )
        label.set_in_layout(False)
        extent = label.get_window_extent()
        half = np.array([extent.width, extent.height]) / 2 + scale
        made = _candidates(spots[k], half, float(best[k]), scale, gap)
        made.price += _static(made, points, segments, frame, scale)
        drawn.append(label)
        labels.append(made)
    _choose(labels)
    left = _drop(labels)
    for k, made in enumerate(labels):
        if k in left:
            drawn[k].remove()
            continue
        box = np.array([made.low[made.chosen], made.high[made.chosen]])
        drawn[k].set_position(tuple(axes.transData.inverted().transform(box.mean(axis=0))))
        end = made.end[made.chosen]
        if np.hypot(*(end - made.anchor)) > (_NEAR + gap) * scale:
            line = axes.transData.inverted().transform(np.array([made.anchor, end]))
            hue: Any = drawn[k].get_color()
            (leader,) = axes.plot(line[:, 0], line[:, 1], color=hue, lw=0.4, zorder=3.5, scalex=False, scaley=False)
            leader.set_in_layout(False)
    return len(left)


def _outline(text: Text) -> Array:
    """Return the middle and the corners (5, 2) of a text that is there already, pixels."""
    extent = text.get_window_extent()
    return np.vstack([extent.corners(), [(extent.x0 + extent.x1) / 2, (extent.y0 + extent.y1) / 2]])


def _candidates(spot: Array, half: Array, best: float, scale: float, gap: float) -> _Label:
    """Return the places around a point at which a label of a given half size may stand, the price of their distance."""
    radius, angle = (grid.ravel() for grid in np.meshgrid(_RADII, _ANGLES, indexing="ij"))
    way = np.stack([np.cos(np.radians(angle)), np.sin(np.radians(angle))], axis=1)
    centre = spot + way * ((radius[:, None] + gap) * scale + half)
    turn = np.abs((angle - best + 180) % 360 - 180)
    low, high = centre - half, centre + half
    price = np.where(radius > _RADII[0], 2.0 + 0.8 * radius, 0.0) + 0.035 * turn
    return _Label(spot, low, high, np.clip(spot, low, high), price)


def _static(label: _Label, points: Array, segments: Array, frame: object, scale: float) -> Array:
    """Return the prices (N,) of what does not move: points and lines covered or crossed, parts outside the frame."""
    low, high = label.low[:, None], label.high[:, None]
    clear = _CLEAR * scale
    covered = np.all((points > low - clear) & (points < high + clear), axis=2).sum(axis=1)
    outside = np.maximum(
        [frame.x0, frame.y0] - label.low,  # type: ignore[attr-defined]
        label.high - [frame.x1, frame.y1],  # type: ignore[attr-defined]
    )
    price = _POINT * covered + _HARD * (outside.max(axis=1) > 0)
    others = points[np.hypot(*(points - label.anchor).T) > clear]
    price = price + _THROUGH * (distances(others[None], label.anchor, label.end[:, None]) < clear).sum(axis=1)
    if len(segments):
        start, stop = segments[None, :, 0], segments[None, :, 1]
        price = price + _LINE * meets_box(start, stop, low, high).sum(axis=1)
        away = label.anchor + 0.02 * (label.end - label.anchor)
        price = price + _OVER * crosses(away[:, None], label.end[:, None], start, stop).sum(axis=1)
    return np.asarray(price)


def _choose(labels: Sequence[_Label]) -> None:
    """Choose a place for each label in turn, in the order that is best: as given, backwards, from the left or right."""
    rows = list(range(len(labels)))
    across = sorted(rows, key=lambda k: float(labels[k].anchor[0]))
    tried = [_choose_in([labels[k] for k in order]) for order in (rows, rows[::-1], across, across[::-1])]
    for label, chosen in min(tried, key=lambda one: one[0])[1]:
        label.chosen = chosen


def _choose_in(labels: Sequence[_Label]) -> tuple[float, list[tuple[_Label, int]]]:
    """Choose places in this order, then again beside what the others have, until nothing changes; return the price."""
    for label in labels:
        label.chosen = -1
    for _ in range(6):
        changed, total = False, 0.0
        for label in labels:
            price = label.price + _between(label, [one for one in labels if one is not label and one.chosen >= 0])
            found = int(price.argmin())
            changed |= found != label.chosen
            label.chosen = found
            total += float(price[found])
        if not changed:
            break
    return total, [(label, label.chosen) for label in labels]


def _between(label: _Label, others: Sequence[_Label]) -> Array:
    """Return the price (N,) of each place beside what the other labels have chosen."""
    if not others:
        return np.zeros(len(label.price))
    low, high = (np.array([getattr(o, name)[o.chosen] for o in others])[None] for name in ("low", "high"))
    start, stop = np.array([o.anchor for o in others])[None], np.array([o.end[o.chosen] for o in others])[None]
    mine_low, mine_high, mine_end = label.low[:, None], label.high[:, None], label.end[:, None]
    anchor = np.broadcast_to(label.anchor, mine_end.shape)
    overlaps = np.all((mine_low < high) & (mine_high > low), axis=2)
    across = np.logical_or(meets_box(start, stop, mine_low, mine_high), meets_box(anchor, mine_end, low, high))
    same = np.all(np.abs(start - label.anchor) < 1e-6, axis=2)  # two labels of one point
    return np.asarray(
        (_HARD * (overlaps | across) + _CROSSED * (crosses(anchor, mine_end, start, stop) & ~same)).sum(1)
    )


def _drop(labels: Sequence[_Label]) -> set[int]:
    """Return which labels to leave out, so that none of the others lies where it must not."""
    left: set[int] = set()
    settled = [label.settled() for label in labels]
    while True:
        kept = [k for k in range(len(labels)) if k not in left]
        wrong = {
            k: int((settled[k].price + _between(settled[k], [settled[i] for i in kept if i != k]))[0] // _HARD)
            for k in kept
        }
        worst = max(kept, key=lambda k: (wrong[k], k), default=None)
        if worst is None or wrong[worst] == 0:
            return left
        left.add(worst)


def distances(points: Array, start: Array, stop: Array) -> Array:
    """Return how far points (..., 2) are from the segments from ``start`` to ``stop`` (..., 2)."""
    way = stop - start
    length = np.maximum((way**2).sum(axis=-1), 1e-9)
    along = np.clip(((points - start) * way).sum(axis=-1) / length, 0.0, 1.0)
    return np.asarray(np.hypot(*np.moveaxis(points - start - along[..., None] * way, -1, 0)))


def meets_box(start: Array, stop: Array, low: Array, high: Array) -> Array:
    """Tell which segments (..., 2) meet which boxes (..., 2); the last axis is x and y."""
    way = stop - start
    way = np.where(np.abs(way) < 1e-9, 1e-9, way)
    near, far = (low - start) / way, (high - start) / way
    enter, leave = np.minimum(near, far).max(axis=-1), np.maximum(near, far).min(axis=-1)
    return np.asarray((enter <= leave) & (leave >= 0) & (enter <= 1))


def crosses(a: Array, b: Array, c: Array, d: Array) -> Array:
    """Tell which segments from ``a`` to ``b`` (..., 2) cross which from ``c`` to ``d``."""

    def side(p: Array, q: Array, r: Array) -> Array:
        return np.asarray(
            (q[..., 0] - p[..., 0]) * (r[..., 1] - p[..., 1]) - (q[..., 1] - p[..., 1]) * (r[..., 0] - p[..., 0])
        )

    return np.asarray((side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0))
