"""Distribution distance against sampling steps, for every solver; the smallest step count that loses nothing.

Every curve is of maps drawn from the same start noise and held against the float model's ancestral maps of all steps.
Of a run with a quantised model the int8 curve is what chooses; the float one stands beside it. A distilled U-Net draws
in its own steps alone: one point in float and one in int8, beside the curves of its teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from ubq.bench.distance import WITHIN, Noise, Quality, ancestral_maps, compare
from ubq.bench.subject import FloatModel, held_out_maps, trained_model
from ubq.bench.timing import machine, markdown
from ubq.config.load import read_frozen
from ubq.config.schema import ExportConfig, QuantConfig, Solver
from ubq.errors import UsageError
from ubq.export.lower.torchscript import engine, lower
from ubq.i18n import gettext as _
from ubq.quant.checkpoint import load_qat
from ubq.quant.generator import Generator, Recipe, Sampler, shared_copy
from ubq.stages.floatmodel import STUDENT
from ubq.stages.paths import RunPaths
from ubq.stages.qat_diffusion import FINAL

FLOAT, INT8 = "float", "int8"


@dataclass(frozen=True)
class Point:
    """One step count of one curve.

    Attributes:
        model: ``float``, ``int8``, or of a distilled U-Net ``student`` and ``int8 student``.
        solver, steps: of the sampler.
        quality: beside the float model's ancestral maps.
    """

    model: str
    solver: Solver
    steps: int
    quality: Quality

    def to_dict(self) -> dict[str, object]:
        """As JSON, flat."""
        return {"model": self.model, "solver": self.solver, "steps": self.steps, **asdict(self.quality)}


@dataclass(frozen=True)
class StepsResult:
    """Every curve.

    Attributes:
        reference_steps: ancestral steps of the float model that all are held against, of a student's teacher.
        reference_distance: their distance to the held-out maps.
        model: whose curve chooses, int8 where there is one.
        points: of all curves.
        chosen: the smallest step count within 5 %, interval included; None: none is.
    """

    run: str
    machine: str
    maps: int
    held_out: int
    reference_steps: int
    reference_distance: float
    model: str
    points: tuple[Point, ...]
    chosen: Point | None

    def to_dict(self) -> dict[str, object]:
        """As JSON."""
        return {
            **{name: getattr(self, name) for name in ("run", "machine", "maps", "held_out", "reference_steps")},
            "reference_distance": self.reference_distance,
            "model": self.model,
            "points": [p.to_dict() for p in self.points],
            "chosen": {"solver": self.chosen.solver, "steps": self.chosen.steps} if self.chosen else None,
        }

    def to_markdown(self) -> str:
        """The table of ``bench/README.md``."""
        curves = list(dict.fromkeys((p.model, p.solver) for p in self.points))
        cells = {(p.model, p.solver, p.steps): p.quality for p in self.points}
        rows = []
        for steps in sorted({p.steps for p in self.points}):
            row = [str(steps)]
            for curve in curves:
                q = cells.get((*curve, steps))
                row.append(f"{q.ratio:.3f} ({q.lower:.3f} to {q.upper:.3f})" if q else "")
            rows.append(row)
        table = markdown(["steps", *(f"{solver}, {model}" for model, solver in curves)], rows)
        chosen = f"{self.chosen.solver} with {self.chosen.steps} steps" if self.chosen else "none"
        return (
            f"{table}\n\nDistance of {self.maps} maps to {self.held_out} held-out maps over that of float with "
            f"{self.reference_steps} ancestral steps ({self.reference_distance:.4f}), 95 % interval. Smallest within "
            f"{100 * (WITHIN - 1):.0f} %, interval included, {self.model}: **{chosen}**."
        )


def smallest_within(points: Sequence[Point], model: str) -> Point | None:
    """The fewest steps of a model whose quality holds; of two solvers with as many, the smaller distance."""
    good = [p for p in points if p.model == model and p.quality.within]
    return min(good, key=lambda p: (p.steps, p.quality.ratio), default=None)


def offering(generator: Generator, sampler: ExportConfig, diffusion_steps: int, objective: str) -> Generator:
    """A copy of a generator, over the same weights, with another sampler."""
    copy = shared_copy(generator)
    copy.add_module("sampler", Sampler(diffusion_steps, objective, sampler))
    return copy


def draw(generator: Generator, noise: Noise, steps: int, progress: Callable[[], None]) -> Tensor:
    """Maps (N, 1, 70, 70), m/s."""
    drawn = []
    for x_T, step_noise in noise.batches(steps):
        latent = generator.sample(x_T, step_noise, steps).flatten(1)
        velocity = generator.velocity_decoder(generator.velocity_projector(latent))
        drawn.append(velocity * generator.velocity_half + generator.velocity_middle)
        progress()
    return torch.cat(drawn)


@torch.no_grad()
def measure_steps(
    run: Path,
    *,
    maps: int,
    solvers: Sequence[Solver],
    steps: Sequence[int],
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> StepsResult:
    """Draw every curve of a run's models.

    Args:
        run: folder of a run whose U-Net is trained; the int8 curve needs its quantised model too.
        maps: to generate at every point.
        seed: of the start noise.
        solvers: curves.
        steps: points of each; more than the model was trained with are left out.
        progress: called with (done, total) batches.

    Raises:
        UsageError: no step count is left.
        StageError: the run has no trained U-Net yet.
    """
    model = trained_model(run)
    sizes = model.sizes
    counts = sorted({n for n in steps if 0 < n <= sizes.diffusion_steps})
    if not counts:
        raise UsageError(
            _("no step count of 1 to {steps} is left to measure").format(steps=sizes.diffusion_steps), _("give --steps")
        )
    real, noise = held_out_maps(run), Noise(maps, sizes.encoder_dim, seed)
    curves = list(_curves(RunPaths(run), model, solvers, counts))
    batches = len(noise.batches(1))
    done, total = 0, batches * (1 + sum(len(curve.steps) for curve in curves))

    def step() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    reference = ancestral_maps(model, noise, step)
    points = []
    for curve in curves:
        generator, backend = curve.load()
        with engine(backend):
            ready = lower(generator, time_tables=True) if curve.model.startswith(INT8) else generator
            for count in curve.steps:
                quality = compare(draw(ready, noise, count, step), reference, real)
                points.append(Point(curve.model, curve.solver, count, quality))
    chooser = curves[-1].model
    return StepsResult(
        run=run.name,
        machine=machine(),
        maps=maps,
        held_out=len(real),
        reference_steps=sizes.diffusion_steps,
        reference_distance=points[0].quality.float_distance,
        model=chooser,
        points=tuple(points),
        chosen=smallest_within(points, chooser),
    )


@dataclass(frozen=True)
class _Curve:
    """A model with a solver, the step counts to draw, and how to load it with the engine that it computes with."""

    model: str
    solver: Solver
    steps: Sequence[int]
    load: Callable[[], tuple[Generator, str]]


def _curves(paths: RunPaths, model: FloatModel, solvers: Sequence[Solver], counts: Sequence[int]) -> Iterator[_Curve]:
    """Every curve of a run, int8 ones last."""
    sizes = model.sizes
    checkpoint = paths.checkpoints("qat-diffusion") / FINAL
    config = read_frozen(paths.config)

    def sampler(solver: Solver) -> ExportConfig:
        return ExportConfig(solver=solver, steps=counts[0], step_choices=tuple(counts[1:]))

    def of_float(whole: FloatModel, export: ExportConfig, distilled: bool = False) -> tuple[Generator, str]:
        recipe = Recipe(sizes, whole.normalization, QuantConfig(), export, distilled)
        return Generator(whole.model, recipe).eval(), torch.backends.quantized.engine

    def of_int8(export: ExportConfig | None) -> tuple[Generator, str]:
        loaded = load_qat(checkpoint)
        generator = loaded.generator
        if export is not None:
            generator = offering(generator, export, sizes.diffusion_steps, sizes.objective)
        return generator.eval(), loaded.recipe.quant.backend

    for solver in solvers:
        yield _Curve(FLOAT, solver, counts, partial(of_float, model, sampler(solver)))
    if config.distill.steps:
        steps = (config.distill.steps,)
        if (paths.checkpoints("distill") / STUDENT).is_file():
            student = trained_model(paths.root, student=True)
            yield _Curve("student", "ddim", steps, partial(of_float, student, config.sampling, True))
        if checkpoint.is_file():
            yield _Curve(f"{INT8} student", "ddim", steps, partial(of_int8, None))
    elif checkpoint.is_file():
        for solver in solvers:
            yield _Curve(INT8, solver, counts, partial(of_int8, sampler(solver)))


def draw_curves(result: StepsResult, path: Path) -> None:
    """PNG of the curves with their intervals; its few words stay English, as matplotlib's own font does."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    colours = {solver: f"C{i}" for i, solver in enumerate(get_args(Solver))}
    for model, solver in dict.fromkeys((p.model, p.solver) for p in result.points):
        line = [p for p in result.points if (p.model, p.solver) == (model, solver)]
        values = [p.quality.ratio for p in line]
        below = [p.quality.ratio - p.quality.lower for p in line]
        above = [p.quality.upper - p.quality.ratio for p in line]
        style = "-" if model.startswith(INT8) else ":"
        axis.errorbar(
            [p.steps for p in line], values, [below, above], fmt=f"o{style}", color=colours[solver], capsize=3,
            markersize=4, label=f"{solver}, {model}",
        )  # fmt: skip
    axis.axhline(WITHIN, color="gray", linewidth=0.8, label="5 % above")
    axis.axhline(1.0, color="black", linewidth=0.8)
    axis.set_xscale("log")
    ticks = sorted({p.steps for p in result.points})
    axis.set_xticks(ticks, [str(t) for t in ticks])
    axis.minorticks_off()
    axis.set_xlabel("sampling steps")
    axis.set_ylabel(f"distance over that of float, {result.reference_steps} ancestral steps")
    axis.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, format="png")
