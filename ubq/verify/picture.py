"""``samples.png``: pairs, a row each: the map, the decoder's gather, the wave equation's, and what lies between them.

Its few words stay English: matplotlib's own font has no Chinese glyphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ubq.acquisition import CELL, TIME_STEP
from ubq.data.normalization import Normalization
from ubq.metrics import physics_errors, physics_reference
from ubq.runtime.wave import WaveEquation

SHOT = 2
"""Source drawn of the five: the middle one."""
_CLIP = 95.0
"""Percentile of the amplitudes where the gathers' colours end: at their largest the direct wave would hide all else."""


@dataclass(frozen=True)
class Panel:
    """One gather of a row."""

    title: str
    gather: np.ndarray
    """(S, T, R)."""
    note: str = ""
    """A few words below it."""


@dataclass(frozen=True)
class Row:
    """One pair of the picture."""

    name: str
    velocity: np.ndarray
    """(1, H, W), m/s."""
    panels: tuple[Panel, ...]


def rows_of(
    name: str,
    velocity: np.ndarray,
    solver: WaveEquation | None,
    decoded: np.ndarray | None = None,
    modelled: np.ndarray | None = None,
    recorded: np.ndarray | None = None,
) -> list[Row]:
    """Rows of pairs, each gather with its physics error E.

    Args:
        name: what the pairs are.
        velocity: (N, 1, H, W) m/s.
        solver: models the gathers that all others are held against; None: it cannot, and ``decoded`` is drawn alone.
        decoded: gathers (N, S, T, R) of the seismic decoder.
        modelled: gathers by the wave equation where the pairs have some, or else the solver's are drawn.
        recorded: gathers that the data set has for these maps; their E is noted.
    """
    if solver is None:
        alone: list[tuple[Panel, ...]] = [()] * len(velocity)
        if decoded is not None:
            alone = [(Panel("seismic decoder", each),) for each in decoded]
        return [Row(name, *row) for row in zip(velocity, alone, strict=True)]
    own, direct = physics_reference(velocity, solver)

    def errors(gathers: np.ndarray | None, before: str = "") -> list[str]:
        if gathers is None:
            return [""] * len(velocity)
        return [f"{before}E = {error:.2f}" for error in physics_errors(gathers, own, direct)]

    shown = own if modelled is None else modelled
    notes = errors(modelled) if recorded is None else errors(recorded, "the data set's: ")
    rows = []
    for i, note in enumerate(errors(decoded)):
        panels: tuple[Panel, ...] = (Panel("wave equation", shown[i], notes[i]),)
        if decoded is not None:
            difference = Panel("decoder - wave equation", decoded[i] - shown[i])
            panels = (Panel("seismic decoder", decoded[i], note), *panels, difference)
        rows.append(Row(name, velocity[i], panels))
    return rows


def draw_pairs(path: Path, rows: Sequence[Row], normalization: Normalization) -> None:
    """Draw the middle shot of each pair; all gathers have one scale of colours.

    Args:
        path: PNG to write.
        rows: at least one.
        normalization: ranges of the maps' colours.
    """
    # the object-oriented interface: no pyplot, so no display, no global state
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 1 + max(len(row.panels) for row in rows)
    shots = [_shot(panel.gather) for row in rows for panel in row.panels]
    clip = float(np.percentile(np.abs(np.concatenate(shots)), _CLIP)) if shots else 1.0
    figure = Figure(figsize=(2.5 * columns + 0.5, 2.6 * len(rows) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    image = None
    for line, row in zip(axes, rows, strict=True):
        height, width = (n * CELL / 1000 for n in row.velocity.shape[-2:])
        map_image = line[0].imshow(
            row.velocity[0], cmap="viridis", vmin=normalization.velocity_min, vmax=normalization.velocity_max,
            extent=(0, width, height, 0), interpolation="nearest",
        )  # fmt: skip
        line[0].set_title(row.name, fontsize=9)
        line[0].set_ylabel("depth, km", fontsize=8)
        line[0].set_xlabel("distance, km", fontsize=8)
        for axis, panel in zip(line[1:], row.panels, strict=False):
            shot = _shot(panel.gather)
            image = axis.imshow(
                shot, cmap="seismic", vmin=-(clip or 1.0), vmax=clip or 1.0, aspect="auto",
                extent=(0, width, len(shot) * TIME_STEP, 0),
            )  # fmt: skip
            axis.set_title(panel.title, fontsize=9)
            axis.set_xlabel(panel.note, fontsize=9)
        for axis in line[1 + len(row.panels) :]:
            axis.set_axis_off()
        for axis in line[1:2]:
            axis.set_ylabel("time, s", fontsize=8)
        for axis in line:
            axis.tick_params(labelsize=7)
    # as thin as a bar below one row would be
    thin = 0.12 / len(rows)
    maps, gathers = list(axes[:, 0]), list(axes[:, 1:].ravel())
    figure.colorbar(map_image, ax=maps, label="m/s", location="bottom", fraction=thin, pad=0.01, aspect=15)
    if image is not None:
        figure.colorbar(
            image, ax=gathers, label="amplitude", location="bottom", fraction=thin, pad=0.01, aspect=30, shrink=0.5,
            extend="both",
        )  # fmt: skip
    figure.savefig(path, dpi=110, format="png")


def _shot(gather: np.ndarray) -> np.ndarray:
    """The shot of a gather (S, T, R) that is drawn."""
    return gather[min(SHOT, len(gather) - 1)]
