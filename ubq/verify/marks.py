"""The success marks: each a function from measured evidence to a verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ubq.i18n import gettext as _
from ubq.i18n import joined
from ubq.metrics import (
    Distance,
    Variogram,
    lattice,
    mann_kendall,
    nearest,
    pairwise_diversity,
    ratio_interval,
    sliced_wasserstein,
    variogram,
)
from ubq.metrics.distribution import WANTED_HELD_OUT
from ubq.metrics.trend import FEWEST_POINTS, SIGNIFICANCE
from ubq.verify.report import Mark

MIN_QUANTISED_MODULES = 0.30
MAX_FILE_BYTES = 2_000_000_000
VELOCITY_MARGIN = 0.10
"""Share of the velocity range by which a generated map may leave it."""
MAX_ERROR = {"velocity": 0.05, "seismic": 0.05, "unet_step": 0.10}
MIN_DIVERSITY = 0.7
MAX_NOISE_RATIO = 0.5
MAX_PHYSICS_ERROR = 0.05
MAX_LATTICE = 2.0
MAX_VARIOGRAM = 0.25
FULL_QUANTISATION_PHASES = ("activations", "frozen")
GENERATION_CHECKS = ("without_ubq", "shapes", "finite", "velocity_range", "calls_differ", "seed_repeats")


def unmeasured(mark_id: str, threshold: Any, why: str) -> Mark:
    """A mark that fails because its evidence could not be had."""
    return Mark(mark_id, False, None, threshold, _("not measured: {why}").format(why=why))


def quantised_modules(quantised: int, total: int) -> Mark:
    """Share of the deployed generator's leaf modules that are int8, as read off the exported graph."""
    share = quantised / total if total else 0.0
    how = _("{quantised} of {total} leaf modules of the exported graph are int8")
    how = how.format(quantised=quantised, total=total)
    return Mark("quantised_modules", share > MIN_QUANTISED_MODULES, share, MIN_QUANTISED_MODULES, how)


def conv1d_left(left: int, before: int) -> Mark:
    """One-dimensional convolutions in the exported graph; the float U-Net has 75."""
    how = _("{left} in the exported graph, of {before} in the float model").format(left=left, before=before)
    return Mark("conv1d_left", left == 0, left, 0, how)


def file_size(path: Path) -> Mark:
    """Bytes of the exported file."""
    size = path.stat().st_size
    how = _("bytes of {file}").format(file=path.name)
    return Mark("file_size", size < MAX_FILE_BYTES, size, MAX_FILE_BYTES, how)


@dataclass(frozen=True)
class LossTrend:
    """What the rows of one stage show."""

    stage: str
    passed: bool
    tau: float | None
    p: float | None
    rows: int
    first_val: float | None
    last_val: float | None
    why: str


def loss_falling(rows: Iterable[Mapping[str, Any]], stages: Sequence[str]) -> tuple[Mark, list[LossTrend]]:
    """Do the losses of every stage that trained behave?

    Args:
        rows: of ``metrics.jsonl``, in the order written: ``stage``, ``step``, ``phase``, and ``loss`` or ``val_loss``.
        stages: the stages that had to train; names that begin with ``qat-`` are quantisation-aware.

    A pretraining stage passes when its training loss falls (two-sided Mann-Kendall, p < 0.01) and its last
    validation loss is below the first. A QAT stage starts from a trained model: from the step where
    everything is fake-quantised, its loss must not rise and the last validation loss must not be above the first.
    """
    by_stage: dict[str, list[Mapping[str, Any]]] = {stage: [] for stage in stages}
    for row in rows:
        if row.get("stage") in by_stage:
            by_stage[row["stage"]].append(row)
    trends = [_loss_trend(stage, stage_rows) for stage, stage_rows in by_stage.items()]
    failed = [t for t in trends if not t.passed]
    texts = [joined(": ", (t.stage, t.why)) for t in failed or trends]
    how = joined("; ", texts) or _("no stage of this run trains")
    return Mark("loss_falling", not failed, len(trends) - len(failed), len(trends), how), trends


def _loss_trend(stage: str, rows: Sequence[Mapping[str, Any]]) -> LossTrend:
    qat = stage.startswith("qat-")
    if qat:
        start = next((i for i, row in enumerate(rows) if row.get("phase") in FULL_QUANTISATION_PHASES), len(rows))
        rows = rows[start:]
    losses = [_number(row["loss"]) for row in rows if "loss" in row]
    vals = [_number(row["val_loss"]) for row in rows if "val_loss" in row]
    first, last = (vals[0], vals[-1]) if vals else (None, None)

    def verdict(passed: bool, why: str, tau: float | None = None, p: float | None = None) -> LossTrend:
        return LossTrend(stage, passed, tau, p, len(losses), first, last, why)

    if not all(math.isfinite(x) for x in losses + vals):
        return verdict(False, _("diverged: a loss is not finite"))
    if len(vals) < 2:
        return verdict(False, _("{count} validation losses, two are needed").format(count=len(vals)))
    if not qat and len(losses) < FEWEST_POINTS:
        why = _("{count} rows of training loss, {fewest} are needed for a trend")
        return verdict(False, why.format(count=len(losses), fewest=FEWEST_POINTS))
    trend = mann_kendall(losses)
    moved = _("tau {tau:.2f}, p {p:.1g}; validation {first:.4g} -> {last:.4g}")
    moved = moved.format(tau=trend.tau, p=trend.p, first=vals[0], last=vals[-1])
    if qat:
        passed = trend.direction != "up" and vals[-1] <= vals[0]
        word = (
            _("no upward trend") if passed else _("rises (p < {limit}) or validates worse").format(limit=SIGNIFICANCE)
        )
    else:
        passed = trend.direction == "down" and vals[-1] < vals[0]
        failing = _("does not fall (p < {limit}) or does not validate better").format(limit=SIGNIFICANCE)
        word = _("falls") if passed else failing
    return verdict(passed, joined(": ", (word, moved)), trend.tau, trend.p)


def _number(value: Any) -> float:
    """A loss as written; JSON has no NaN, so writers put null or a word."""
    return float(value) if isinstance(value, int | float) else math.nan


def generation(checks: Mapping[str, bool], problems: Sequence[str] = ()) -> Mark:
    """Does the file work on its own? ``checks``: those of ``GENERATION_CHECKS``, from the probe, and any others."""
    names = list(dict.fromkeys((*GENERATION_CHECKS, *checks)))
    held = sum(bool(checks.get(name)) for name in names)
    missing = [name for name in names if not checks.get(name)]
    shown = ", ".join(names) if not missing else "; ".join(problems)
    shown = shown or _("failed: {checks}").format(checks=", ".join(missing))
    how = _("fresh process without ubq: {checks}").format(checks=shown)
    return Mark("generation", not missing, held, len(names), how)


def int8_fidelity(velocity: float, seismic: float, unet_step: float, engine: str, distilled: bool = False) -> Mark:
    """Relative L2 of the int8 file to the float file: decoded maps and gathers, and one U-Net evaluation.

    Of a distilled file ``unet_step`` is the end error: of the latents after all of its steps from the same noise.
    """
    value = {"velocity": velocity, "seismic": seismic, "unet_step": unet_step}
    passed = all(value[name] <= limit for name, limit in MAX_ERROR.items())  # false for nan
    how = _("relative L2 to the float model from the same latents, under {engine}").format(engine=engine)
    if distilled:
        # Random errors cost less still (studies/distillation.md); those that training has left are not random.
        end = _(
            "unet_step: latents after all steps of the distilled U-Net, from the same noise. Why 10 %: a model that"
            " ended 25 % away drew maps 3 % farther from held-out ones, so that 10 % costs about 1 of the 5 % that the"
            " distance may lose"
        )
        how = joined("; ", (how, end))
    return Mark("int8_fidelity", passed, value, MAX_ERROR, how)


@dataclass(frozen=True)
class Diversity:
    """Mean pairwise and nearest-training-map distances, m/s times pixels."""

    generated: float
    held_out: float
    nearest_train: float
    """Smallest distance of a generated map to a training map; 0 would be a copy, infinite: no training maps."""
    held_out_nearest_train: float
    """The same for as many held-out maps: what unrelated maps of the family score."""
    generated_to_train: tuple[float, ...] = field(default=(), repr=False)
    """Of each generated map to the training map nearest to it."""
    nearest_rows: tuple[int, ...] = field(default=(), repr=False)
    """Those training maps, as numbered in the order given."""
    held_out_to_train: tuple[float, ...] = field(default=(), repr=False)

    def figures(self) -> dict[str, float]:
        """The four figures, without the lists they were taken from."""
        return {name: value for name, value in vars(self).items() if isinstance(value, float)}

    def likeliest_copies(self, most: int) -> list[int]:
        """The generated maps that are nearest to a training map, nearest first."""
        with_one = [i for i, row in enumerate(self.nearest_rows) if row >= 0]
        return sorted(with_one, key=lambda i: self.generated_to_train[i])[:most]


def diversity(generated: Tensor, held_out: Tensor, train: Iterable[Tensor] = ()) -> tuple[Mark, Diversity]:
    """Are the generated maps (N, 1, 70, 70), m/s, as different from each other as held-out maps are?

    Args:
        generated: at least two maps.
        held_out: at least two real maps.
        train: blocks (M, 1, 70, 70) of the training maps, to look for copies.
    """
    l2, real_l2 = pairwise_diversity(generated), pairwise_diversity(held_out)
    count = len(generated)
    distances, which = nearest(torch.cat([generated, held_out[:count]]), train)
    to_train, usual_to_train = distances[:count].tolist(), distances[count:].tolist()
    copies, usual = min(to_train), min(usual_to_train)
    ratio = l2 / real_l2 if real_l2 > 0 else math.nan
    how = _("mean pairwise L2 of {count} generated maps over that of {held_out} held-out maps")
    how = how.format(count=count, held_out=len(held_out))
    if math.isfinite(copies):
        copy = _("smallest distance to a training map {own:.4g}, of held-out maps {usual:.4g}")
        how = joined("; ", (how, copy.format(own=copies, usual=usual)))
    spread = Diversity(
        l2, real_l2, copies, usual, tuple(to_train), tuple(which[:count].tolist()), tuple(usual_to_train)
    )
    return Mark("diversity", ratio >= MIN_DIVERSITY, ratio, MIN_DIVERSITY, how), spread


def beats_noise(generated: Tensor, from_noise: Tensor, held_out: Tensor) -> tuple[Mark, Distance, Distance]:
    """Is the sampler worth its steps? Distances of generated maps and of decoded plain noise to held-out maps."""
    distance, noise_distance = sliced_wasserstein(generated, held_out), sliced_wasserstein(from_noise, held_out)
    ratio = distance.mean / noise_distance.mean if noise_distance.mean > 0 else math.nan
    how = _("sliced Wasserstein distance to {count} held-out maps: {own:.4g}, decoded noise {noise:.4g}")
    parts = [how.format(count=len(held_out), own=distance.mean, noise=noise_distance.mean)]
    if distance.mean > 0 and noise_distance.mean > 0:
        spread = ratio_interval(generated, from_noise, held_out, value=ratio)
        text = _("ratio {ratio:.3f} ({lower:.3f} to {upper:.3f}, 95 %)")
        parts.append(text.format(ratio=ratio, lower=spread.lower, upper=spread.upper))
    if len(held_out) < WANTED_HELD_OUT:
        parts.append(_("fewer held-out maps than the {wanted} wanted").format(wanted=WANTED_HELD_OUT))
    how = joined("; ", parts)
    return Mark("beats_noise", ratio <= MAX_NOISE_RATIO, ratio, MAX_NOISE_RATIO, how), distance, noise_distance


def physics(modelled: Sequence[float], decoded: Sequence[float]) -> Mark:
    """Do the pairs obey the wave equation? E of each pair with modelled gathers, and with the decoder's."""
    value = math.fsum(modelled) / len(modelled)
    how = _(
        "E of {count} pairs with gathers by the file's wave equation, in the mean; with its decoder's gathers {own:.3g}"
    ).format(count=len(modelled), own=math.fsum(decoded) / len(decoded))
    return Mark("physics", value <= MAX_PHYSICS_ERROR, value, MAX_PHYSICS_ERROR, how)


def no_lattice(generated: Tensor, held_out: Tensor) -> Mark:
    """Are the maps free of the grid of dots that transposed convolutions can leave?"""
    peak, held_out_peak = lattice(generated), lattice(held_out)
    how = _("largest peak at a period of 2 or 4 cells of {count} generated maps; held-out maps {real:.3g}")
    how = how.format(count=len(generated), real=held_out_peak)
    return Mark("lattice", peak <= MAX_LATTICE, peak, MAX_LATTICE, how)


def same_variogram(generated: Tensor, held_out: Tensor) -> tuple[Mark, Variogram]:
    """Do cells differ over each distance as much as those of held-out maps? Also the ratios, lag by lag."""
    curve, real_curve = variogram(generated), variogram(held_out)
    value = curve.difference(real_curve)
    halves = variogram(held_out[::2]).difference(variogram(held_out[1::2])) if len(held_out) > 3 else math.nan
    how = _(
        "mean relative difference over lags 1 to {lags} and both directions, to {count} held-out maps; of two halves"
        " of them {halves:.3g}"
    ).format(lags=len(curve.x), count=len(held_out), halves=halves)
    return Mark("variogram", value <= MAX_VARIOGRAM, value, MAX_VARIOGRAM, how), curve.ratios(real_curve)
