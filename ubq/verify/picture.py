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
DECODER, WAVE, DIFFERENCE, DATA_SET = "seismic decoder", "wave equation", "decoder - wave equation", "data set"
"""What a gather is, and whose an error is."""


@dataclass(frozen=True)
class Panel:
    """One gather of a row."""

    title: str
    gather: np.ndarray
    """(S, T, R)."""
    error: float | None = None
    """E, noted below it."""
    whose: str = ""
    """Whose E that is, where not this gather's."""


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
            alone = [(Panel(DECODER, each),) for each in decoded]
        return [Row(name, *row) for row in zip(velocity, alone, strict=True)]
    expected, direct = physics_reference(velocity, solver)

    def errors(gathers: np.ndarray | None) -> list[float] | list[None]:
        return [None] * len(velocity) if gathers is None else physics_errors(gathers, expected, direct).tolist()

    shown = expected if modelled is None else modelled
    noted, whose = (modelled, "") if recorded is None else (recorded, DATA_SET)
    notes = errors(noted)
    rows = []
    for i, error in enumerate(errors(decoded)):
        panels: tuple[Panel, ...] = (Panel(WAVE, shown[i], notes[i], whose),)
        if decoded is not None:
            panels = (Panel(DECODER, decoded[i], error), *panels, Panel(DIFFERENCE, decoded[i] - shown[i]))
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
    clip = clip_of(rows)
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
            drawn = shot(panel.gather)
            image = axis.imshow(
                drawn, cmap="seismic", vmin=-clip, vmax=clip, aspect="auto",
                extent=(0, width, len(drawn) * TIME_STEP, 0),
            )  # fmt: skip
            axis.set_title(panel.title, fontsize=9)
            whose = f"the {panel.whose}'s: " if panel.whose else ""
            axis.set_xlabel("" if panel.error is None else f"{whose}E = {panel.error:.2f}", fontsize=9)
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


def clip_of(rows: Sequence[Row]) -> float:
    """Amplitude at which the colours of all gathers end."""
    shots = [shot(panel.gather) for row in rows for panel in row.panels]
    return (float(np.percentile(np.abs(np.concatenate(shots)), _CLIP)) if shots else 0.0) or 1.0


def shot(gather: np.ndarray) -> np.ndarray:
    """The shot of a gather (S, T, R) that is drawn."""
    return gather[min(SHOT, len(gather) - 1)]
