"""``report.npz``: what the report's pictures are drawn from, kept small, so that the page can be made again later.

Gathers are kept as drawn: one shot, every second sample, eight bits of a common scale. Which arrays there are depends
on what could be measured; a reader asks for each.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ubq.durable import write_atomic
from ubq.verify.picture import clip_of, shot

if TYPE_CHECKING:
    from torch import Tensor

    from ubq.verify.marks import Diversity
    from ubq.verify.picture import Row

EVERY = 2
"""Samples of a trace from one kept to the next: 500 Hz for a wavelet of 15 Hz."""
NEAREST = 6
"""Generated maps kept with the training map nearest to each: the likeliest copies."""
HISTOGRAM_BINS = 60
QUANTILES = (0.1, 0.5, 0.9)
Evidence = dict[str, np.ndarray]


def of_pairs(rows: Sequence[Row]) -> Evidence:
    """The pairs of ``samples.png``.

    Returns:
        ``pair_name`` (P,), ``pair_velocity`` (P, H, W) m/s; ``gather`` (G, T, R) int8, 127 at the amplitude
        ``gather_scale``; ``gather_pair``, ``gather_title``, ``gather_error`` (E, or nan) and ``gather_whose`` (G,).
    """
    panels = [(i, panel) for i, row in enumerate(rows) for panel in row.panels]
    clip = clip_of(rows)
    levels = [np.rint(shot(panel.gather)[::EVERY] * (127 / clip)) for _i, panel in panels]
    return {
        "pair_name": np.array([row.name for row in rows]),
        "pair_velocity": np.stack([row.velocity[0] for row in rows]).astype(np.float16),
        "gather": np.array([np.clip(x, -127, 127) for x in levels], np.int8),
        "gather_scale": np.array(clip, np.float32),
        "gather_pair": np.array([i for i, _panel in panels]),
        "gather_title": np.array([panel.title for _i, panel in panels]),
        "gather_error": np.array([np.nan if p.error is None else p.error for _i, p in panels], np.float32),
        "gather_whose": np.array([panel.whose for _i, panel in panels]),
    }


def of_maps(generated: Tensor, held_out: Tensor, limits: tuple[float, float]) -> Evidence:
    """Both sets (N, 1, H, W), m/s, as distributions: of the cells' velocities, and of those in each depth.

    Returns:
        ``velocity_edges`` (B + 1,), and for each set ``velocity_NAME`` (B,), shares, and ``depth_NAME`` (3, H), the
        ``QUANTILES`` of each row.
    """
    edges = np.linspace(*limits, HISTOGRAM_BINS + 1)
    evidence: Evidence = {"velocity_edges": edges}
    for name, maps in (("generated", generated), ("held_out", held_out)):
        counts, _edges = np.histogram(maps.numpy(), bins=edges)
        evidence[f"velocity_{name}"] = counts / maps.numel()
        rows = maps[:, 0].transpose(0, 1).flatten(1).numpy()
        evidence[f"depth_{name}"] = np.quantile(rows, QUANTILES, axis=1).astype(np.float32)
    return evidence


def of_copies(generated: Tensor, spread: Diversity, chosen: Sequence[int], nearest: Tensor) -> Evidence:
    """The generated maps that are nearest to a training map.

    Args:
        generated: (N, 1, H, W) m/s.
        spread: their distances.
        chosen: M of the generated maps.
        nearest: (M, 1, H, W), the training map nearest to each of those.

    Returns:
        ``copy_generated`` and ``copy_nearest`` (M, H, W) m/s, ``copy_distance`` (M,); ``distance_generated`` (N,) and
        ``distance_held_out``: of every map to its nearest training map.
    """
    return {
        "copy_generated": generated[list(chosen), 0].numpy().astype(np.float16),
        "copy_nearest": nearest[:, 0].numpy().astype(np.float16),
        "copy_distance": np.array([spread.generated_to_train[i] for i in chosen], np.float32),
        "distance_generated": np.array(spread.generated_to_train, np.float32),
        "distance_held_out": np.array(spread.held_out_to_train, np.float32),
    }


def write_evidence(path: Path, evidence: Evidence) -> None:
    """Write the arrays whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **evidence)  # type: ignore[arg-type]
    write_atomic(path, buffer.getvalue())


def read_evidence(path: Path) -> Evidence:
    """The arrays of a file; none where there is no such file, or it is damaged."""
    try:
        with np.load(path) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}
