"""Loss curves as text: braille dots for training, rings for validation."""

from __future__ import annotations

import math
from collections.abc import Sequence

Points = Sequence[tuple[float, float]]
"""(step, loss)."""

# Bit of each dot of a braille cell, by row (0 to 3) and column (0, 1); Unicode block U+2800.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_AXIS = 10
"""Columns for the axis: a figure such as -1.23e+10, and a line."""
_LEAST = 16
"""Columns without which a curve says nothing, and its steps have no room below it."""


def curves(train: Points, validation: Points, width: int, height: int, logarithmic: bool | None = None) -> list[str]:
    """Lines of a plot of ``width`` x ``height`` characters; no lines where there is nothing to draw or no room.

    The loss axis is logarithmic as told, of itself when the losses span more than a factor of ten; losses must be
    positive for it.
    """
    points = [p for p in (*train, *validation) if math.isfinite(p[1])]
    columns, rows = width - _AXIS - 1, height - 1
    if not points or columns < _LEAST or rows < 2:
        return []
    losses = [loss for _step, loss in points]
    low, high = min(losses), max(losses)
    logarithmic = low > 0 and (high > 10 * low if logarithmic is None else logarithmic)

    def scale(loss: float) -> float:
        return math.log(loss) if logarithmic else loss

    bottom, top = scale(low), scale(high)
    first, last = min(s for s, _loss in points), max(s for s, _loss in points)

    def cell_of(point: tuple[float, float], across: int, down: int) -> tuple[int, int]:
        """Column and row on a grid; the highest loss in row 0."""
        x = (point[0] - first) / (last - first) if last > first else 0.5
        y = (top - scale(point[1])) / (top - bottom) if top > bottom else 0.5
        return round(x * (across - 1)), round(y * (down - 1))

    cells = [[0] * columns for _row in range(rows)]
    dots = [cell_of(p, 2 * columns, 4 * rows) for p in _thinned(train, first, last, 2 * columns)]
    for i, dot in enumerate(dots):
        for x, y in _line(dots[i - 1], dot) if i else (dot,):
            cells[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
    grid = [[chr(0x2800 + c) if c else " " for c in row] for row in cells]
    for point in validation:
        if math.isfinite(point[1]):
            x, y = cell_of(point, columns, rows)
            grid[y][x] = "○"
    middle = math.exp((bottom + top) / 2) if logarithmic else (low + high) / 2
    labels = {0: high, rows // 2: middle, rows - 1: low} if rows > 3 else {0: high, rows - 1: low}
    figures = dict(zip(labels, _figures(list(labels.values())), strict=True))
    lines = [
        f"{figures.get(r, ''):>{_AXIS - 1}} {'┤' if r in labels else '│'}{''.join(row)}" for r, row in enumerate(grid)
    ]
    left, right = f"{first:.0f}", f"{last:.0f}"
    lines.append(" " * _AXIS + "└" + f"{left}{right:>{max(0, columns - len(left))}}"[:columns])
    return lines


def _thinned(points: Points, first: float, last: float, columns: int) -> list[tuple[float, float]]:
    """Points whose steps share a column become their mean: noise would hide the course."""
    width = (last - first) / columns
    groups: dict[int, list[tuple[float, float]]] = {}
    for step, loss in points:
        if math.isfinite(loss):
            groups.setdefault(int((step - first) / width) if width else 0, []).append((step, loss))
    return [(sum(s for s, _loss in g) / len(g), sum(loss for _step, loss in g) / len(g)) for g in groups.values()]


def _figures(losses: Sequence[float]) -> list[str]:
    """Losses with as many digits as tell them apart and have room, three at least and six at most."""
    figures = [f"{loss:.3g}" for loss in losses]
    for digits in (4, 5, 6):
        longer = [f"{loss:.{digits}g}" for loss in losses]
        if len(set(figures)) == len(figures) or max(map(len, longer)) >= _AXIS:
            break
        figures = longer
    return figures


def _line(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    """Grid points from one dot to the next."""
    count = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    return [
        (round(start[0] + (end[0] - start[0]) * i / count), round(start[1] + (end[1] - start[1]) * i / count))
        for i in range(count + 1)
    ]
