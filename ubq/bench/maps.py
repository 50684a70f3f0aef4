"""What the maps of a run look like: lattice, variograms, cuts and distance, each beside what real maps score.

Three sets are held against the held-out maps: what the decoder makes of their own latents, what the float model draws
with every step, and what the exported file draws. So it shows which stage loses what.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ubq.bench.distance import BATCH, Noise, ancestral_maps
from ubq.bench.subject import Subject, subject_of_run
from ubq.metrics import Variogram, cuts, lattice, sliced_wasserstein, variogram
from ubq.stages.paths import RunPaths
from ubq.training.latents import load_latents
from ubq.verify.marks import MAX_LATTICE, MAX_VARIOGRAM

SHOWN_LAGS = (1, 2, 4, 10, 30)
FLOOR = "half of held-out"


@dataclass(frozen=True)
class MapFigures:
    """One set of maps beside the held-out ones.

    Attributes:
        maps: how many.
        lattice: about 1 without one.
        variogram: along x and depth, (m/s)².
        ratios: the same over that of the held-out maps, lag by lag.
        difference: mean relative difference of the two, over lags and directions.
        cuts: share of cuts over that of the held-out maps.
        distance: sliced Wasserstein distance to the held-out maps.
    """

    maps: int
    lattice: float
    variogram: Variogram
    ratios: Variogram
    difference: float
    cuts: float
    distance: float


@dataclass(frozen=True)
class MapsComparison:
    """Every set of a run. ``FLOOR``: one half of the held-out maps against the other, as far as real maps go apart."""

    title: str
    held_out: Variogram
    sets: Mapping[str, MapFigures]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def to_markdown(self) -> str:
        """A table of the figures, and one of the variograms' ratios at some lags."""
        rows = [
            f"{self.title}; a mark asks for lattice <= {MAX_LATTICE:g} and variogram <= {MAX_VARIOGRAM:g}",
            "",
            "| maps | of them | lattice | variogram, mean difference | cuts / held-out | distance |",
            "|---|---|---|---|---|---|",
        ]
        for name, figures in self.sets.items():
            measured = f"{figures.lattice:.2f} | {figures.difference:.3f} | {figures.cuts:.2f} | {figures.distance:.4f}"
            rows.append(f"| {name} | {figures.maps} | {measured} |")
        lags = " | ".join(f"{way} {lag}" for way in ("x", "depth") for lag in SHOWN_LAGS)
        rows += ["", f"| variogram / held-out, cells | {lags} |", "|---" * (2 * len(SHOWN_LAGS) + 1) + "|"]
        for name, figures in self.sets.items():
            both = (figures.ratios.x, figures.ratios.depth)
            rows.append(f"| {name} | " + " | ".join(f"{r[lag - 1]:.2f}" for r in both for lag in SHOWN_LAGS) + " |")
        return "\n".join(rows)


@torch.no_grad()
def measure_maps(
    run: Path,
    *,
    maps: int = 512,
    steps: int = 0,
    backend: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> MapsComparison:
    """Compare the maps of a run with held-out ones.

    Args:
        run: folder of a run that has exported.
        maps: how many to draw from each model.
        steps: sampling steps of the file; 0: its default.
        backend: integer engine; empty: the file's own.
        progress: called with (done, total) batches.

    Raises:
        UsageError: the run has exported nothing yet.
    """
    subject = subject_of_run(run, backend)
    assert subject.held_out is not None
    held_out = subject.held_out
    batches = 2 * math.ceil(maps / BATCH)
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        progress(done, batches)

    noise = Noise(maps, subject.exported.module.latent_length, seed=0)
    sets = {
        FLOOR: (held_out[::2], held_out[1::2]),
        "reconstruction, float": (_reconstruction(run, subject), held_out),
        "exported file": (_drawn(subject, noise, steps, tick), held_out),
        f"float, {subject.float_model.sizes.diffusion_steps} steps": (
            ancestral_maps(subject.float_model, noise, tick),
            held_out,
        ),
    }
    return MapsComparison(subject.title, variogram(held_out), {name: figures_of(*pair) for name, pair in sets.items()})


def figures_of(maps: Tensor, held_out: Tensor) -> MapFigures:
    """Every figure of maps (N, 1, 70, 70), m/s, beside held-out ones."""
    own_variogram, held_out_variogram = variogram(maps), variogram(held_out)
    share = cuts(held_out)
    return MapFigures(
        maps=len(maps),
        lattice=lattice(maps),
        variogram=own_variogram,
        ratios=own_variogram.ratios(held_out_variogram),
        difference=own_variogram.difference(held_out_variogram),
        cuts=cuts(maps) / share if share else math.nan,
        distance=sliced_wasserstein(maps, held_out).mean,
    )


def draw_variograms(comparison: MapsComparison, path: Path) -> None:
    """Draw variograms along x and along depth, held-out maps' in black; words stay English, as in ``samples.png``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, way in zip(axes, ("x", "depth"), strict=True):
        curves = {
            "held-out": comparison.held_out,
            **{name: of_set.variogram for name, of_set in comparison.sets.items()},
        }
        for name, of_set in curves.items():
            values = getattr(of_set, way)
            black = {"color": "black", "linewidth": 2.5} if name == "held-out" else {}
            dashed = {"linestyle": ":", "color": "gray"} if name == FLOOR else {}
            axis.plot(range(1, len(values) + 1), values, label=name, **black, **dashed)
        axis.set_xlabel(f"lag along {way}, cells of 10 m")
    axes[0].set_ylabel("variogram, (m/s)²")
    axes[0].legend()
    figure.savefig(path, dpi=110, format="png")


def _reconstruction(run: Path, subject: Subject) -> Tensor:
    latents = load_latents(RunPaths(run).latents, torch.device("cpu")).val[:, None]
    return torch.cat([subject.float_model.velocity(part) for part in latents.split(BATCH)])


def _drawn(subject: Subject, noise: Noise, steps: int, tick: Callable[[], None]) -> Tensor:
    file, drawn = subject.exported.module, []
    count = steps or int(file.sampler.steps[0])
    for x_T, step_noise in noise.batches(count):
        drawn.append(file.decode(file.sample(x_T, step_noise, count))[0])
        tick()
    return torch.cat(drawn)
