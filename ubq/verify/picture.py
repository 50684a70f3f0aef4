"""``samples.png``: generated pairs beside held-out pairs.

Its few words stay English: matplotlib's own font has no Chinese glyphs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from ubq.data.normalization import Normalization
from ubq.data.pairs import Pairs

COLUMNS = 4
SHOT = 2
"""Source drawn of the five: the middle one."""
_CELL_KM = 0.01
_SAMPLE_S = 0.001


def draw_pairs(
    path: Path,
    velocity: Tensor,
    seismic: Tensor,
    held_out: Pairs | None,
    normalization: Normalization,
    columns: int = COLUMNS,
) -> None:
    """Draw the first pairs of a set and, below them, held-out pairs.

    Args:
        path: PNG to write.
        velocity: generated maps (N, 1, 70, 70), m/s.
        seismic: their gathers (N, 5, 1000, 70).
        held_out: real pairs; their gathers are drawn when they were opened with seismic. None: none drawn.
        normalization: ranges of the colours.
        columns: pairs in a row.
    """
    # the object-oriented interface: no pyplot, so no display, no global state
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, len(velocity))
    rows: list[tuple[str, np.ndarray, bool]] = [
        ("generated", velocity[:columns].numpy(), True),
        ("generated", seismic[:columns].numpy(), False),
    ]
    if held_out is not None and len(held_out):
        chosen = np.linspace(0, len(held_out) - 1, min(columns, len(held_out))).round().astype(np.int64)
        rows.append(("held out", held_out.velocity_batch(chosen).numpy(), True))
        if held_out.has_seismic:
            rows.append(("held out", held_out.seismic_batch(chosen).numpy(), False))
    # one clipped scale for all gathers, that of the real ones where there are any: the direct wave would hide all else
    gathers = [batch for _name, batch, is_velocity in rows if not is_velocity]
    clip = float(np.percentile(np.abs(gathers[-1]), 95)) or 1.0
    figure = Figure(figsize=(2.4 * columns + 1.2, 2.5 * len(rows) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, batch, is_velocity) in zip(axes, rows, strict=True):
        for axis, sample in zip(line, batch, strict=False):
            if is_velocity:
                height, width = sample.shape[-2:]
                image = axis.imshow(
                    sample[0], cmap="viridis", vmin=normalization.velocity_min, vmax=normalization.velocity_max,
                    extent=(0, width * _CELL_KM, height * _CELL_KM, 0),
                )  # fmt: skip
            else:
                shot = sample[min(SHOT, len(sample) - 1)]
                image = axis.imshow(
                    shot, cmap="gray", vmin=-clip, vmax=clip, aspect="auto",
                    extent=(0, shot.shape[1] * _CELL_KM, shot.shape[0] * _SAMPLE_S, 0),
                )  # fmt: skip
        for axis in line[len(batch) :]:
            axis.set_axis_off()
        figure.colorbar(image, ax=list(line), label="m/s" if is_velocity else "amplitude", shrink=0.9)
        line[0].set_ylabel(f"{name}\n" + ("depth, km" if is_velocity else "time, s"))
        line[0].set_xlabel("offset, km")
    figure.savefig(path, dpi=110, format="png")
