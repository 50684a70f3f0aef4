"""Synthetic velocity maps that look like the ten OpenFWI families: "CurveFault-like", never OpenFWI.

Sample ``i`` of a seed is the same whatever else is drawn: every map has its own random stream, keyed by
(seed, family, index). What is imitated, measured on real maps: Vel sets hold 4 to 8 layers with sorted uniform
velocities, integer valued, hard interfaces of one shape; Fault-A sets hold four plateaus, two of them in each half
of the velocity range, shifted by faults, interfaces antialiased over 1 to 3 cells.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.ndimage import gaussian_filter

from ubq.config.schema import DataConfig, Family
from ubq.data.families import FAMILIES, SAMPLES_PER_FILE, VELOCITY_RANGE, VELOCITY_SHAPE, parse_name
from ubq.data.shard import WHOLE, Shard
from ubq.durable import dump_json, parse_json, replacing, write_atomic
from ubq.errors import DataError, UsageError
from ubq.i18n import gettext as _

MANIFEST = "synthetic.json"
VALIDATION_START = 2**32
"""Index of the first held-out sample, so that more training samples never change the held-out ones."""
_DEPTH, _WIDTH = VELOCITY_SHAPE[1:]
_FAMILY_KEYS = {name: key for key, name in enumerate(FAMILIES)}


@dataclass(frozen=True)
class SyntheticSet:
    """What ``write_synthetic`` wrote; its manifest lies beside the files."""

    family: Family
    seed: int
    train: int
    val: int


@dataclass(frozen=True)
class _Geology:
    """Geology of one family. Pairs are bounds of a uniform draw; depths in cells."""

    layers: tuple[int, int]
    relief: tuple[float, float] = (0.0, 0.0)
    """Peak to peak of the interfaces, in mean layer thicknesses."""
    humps: tuple[float, float] = (1.2, 3.2)
    """Periods of the interfaces across the map."""
    growth: tuple[float, float] = (0.0, 0.0)
    """Logarithm of how much the relief grows from the left edge to the right."""
    jitter: float = 0.35
    """Of an interface's depth, in mean layer thicknesses."""
    basement: bool = True
    """Whether the deepest interface lies inside the map everywhere; else only its crests do."""
    tilt: float = 0.0
    """Largest rise of an interface across the map."""
    faults: tuple[int, int] = (0, 0)
    throw: tuple[float, float] = (4.0, 11.0)
    shuffled: bool = False
    """Velocities in random order instead of rising with depth."""


_CURVES = _Geology((4, 8), relief=(0.6, 2.4), humps=(1.4, 3.8), growth=(-0.3, 1.6), jitter=0.05, basement=False)
_LAYERED: dict[Family, _Geology] = {
    "flatvel-a": _Geology(layers=(4, 8)),
    "flatvel-b": _Geology(layers=(4, 8), shuffled=True),
    "curvevel-a": _CURVES,
    "curvevel-b": dataclasses.replace(_CURVES, shuffled=True),
    "flatfault-a": _Geology(layers=(4, 4), faults=(1, 2)),
    "flatfault-b": _Geology(layers=(5, 8), faults=(2, 4), throw=(3.0, 10.0), tilt=25.0),
    "curvefault-a": _Geology(layers=(4, 4), faults=(1, 2), relief=(0.3, 1.1), humps=(0.7, 2.0)),
    "curvefault-b": _Geology(
        layers=(5, 8), faults=(2, 4), throw=(3.0, 10.0), relief=(0.4, 1.8), humps=(1.0, 3.0), tilt=12.0
    ),
}
_SMOOTHNESS: dict[Family, tuple[float, float]] = {"style-a": (5.0, 9.0), "style-b": (2.0, 4.5)}


def synthesise_velocity(family: Family, count: int, seed: int, start: int = 0) -> np.ndarray:
    """Velocity maps ``start`` to ``start + count - 1`` of a seed: (count, 1, 70, 70) float32, m/s, 1500 to 4500."""
    maps = np.empty((count, *VELOCITY_SHAPE), np.float32)
    for i in range(count):
        key = np.random.SeedSequence((seed, _FAMILY_KEYS[family], start + i))
        random = np.random.Generator(np.random.PCG64(key))
        if family in _SMOOTHNESS:
            maps[i, 0] = _style_map(random, _SMOOTHNESS[family])
        else:
            maps[i, 0] = _layered_map(random, _LAYERED[family])
    return maps


def _layered_map(random: np.random.Generator, geology: _Geology) -> np.ndarray:
    """One map of layers, (70, 70) m/s."""
    faulted = geology.faults[1] > 0
    count = int(random.integers(geology.layers[0], geology.layers[1] + 1))
    velocities = _layer_velocities(random, count, two_halves=faulted and count == 4)
    if geology.shuffled:
        random.shuffle(velocities)

    # Depth of the interfaces where the shared shape is zero: evenly spaced, then jittered.
    spacing = _DEPTH / (count if geology.basement else count - 1)
    base_K = spacing * np.arange(1, count) + random.uniform(-geology.jitter, geology.jitter, count - 1) * spacing
    gain_K = np.cumprod(np.r_[1.0, random.uniform(0.88, 1.14, count - 2)])
    shape_knots, knots = _interface_shape(random, geology, spacing)

    # Backwards: where was the rock of this cell before the faults moved it? Faulted maps are computed on a grid
    # twice as fine and averaged, which antialiases the fault lines too.
    fine = 2 if faulted else 1
    centres = (np.arange(_DEPTH * fine) + 0.5) / fine
    z_HW, x_HW = np.meshgrid(centres, centres, indexing="ij")
    source_z, source_x = z_HW, x_HW
    if faulted:
        # Sediments younger than the faults lie over them unbroken.
        unbroken = random.random() < 0.35
        for _fault in range(int(random.integers(geology.faults[0], geology.faults[1] + 1))):
            source_z, source_x = _undo_fault(random, source_z, source_x, geology.throw)

    depth_HW = np.interp(source_x, knots, shape_knots)
    map_HW = np.full_like(z_HW, velocities[0])
    for k in range(count - 1):
        if faulted and k == 0 and unbroken:
            above = z_HW - (base_K[0] + gain_K[0] * np.interp(x_HW, knots, shape_knots))
            map_HW = _step(map_HW, velocities[1], above, soft=True)
            cover = above
            continue
        below = source_z - (base_K[k] + gain_K[k] * depth_HW)
        if faulted and unbroken and k > 0:
            below = np.minimum(below, cover)
        map_HW = _step(map_HW, velocities[k + 1], below, soft=faulted)
    if faulted:
        map_HW = map_HW.reshape(_DEPTH, fine, _WIDTH, fine).mean(axis=(1, 3))
    return map_HW.astype(np.float32)


def _layer_velocities(random: np.random.Generator, count: int, two_halves: bool) -> np.ndarray:
    """Velocities of the layers from the top down, rising, whole m/s."""
    low, high = VELOCITY_RANGE
    if two_halves:
        middle = 0.5 * (low + high)
        upper, lower = random.uniform(low, middle, count // 2), random.uniform(middle, high, count - count // 2)
        return np.rint(np.sort(np.r_[upper, lower]))
    return np.rint(np.sort(random.uniform(low, high, count)))


def _interface_shape(random: np.random.Generator, geology: _Geology, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Depth of every interface relative to its base, at knots across (and beside) the map."""
    knots = np.arange(-20.0, _WIDTH + 20.5, 0.5)
    shape = np.zeros_like(knots)
    if geology.relief[1] > 0:
        # Two sines of neighbouring periods beat, so that humps grow towards one side.
        humps = random.uniform(*geology.humps)
        for weight, periods in ((1.0, humps), (random.uniform(0.3, 0.9), humps * random.uniform(0.4, 1.6))):
            shape += weight * np.sin(2 * np.pi * (periods * knots / _WIDTH + random.random()))
        shape *= np.exp(random.uniform(*geology.growth) * knots / _WIDTH)
        inside = shape[(knots >= 0) & (knots <= _WIDTH)]
        shape = (shape - inside.mean()) * (random.uniform(*geology.relief) * spacing / max(np.ptp(inside), 1e-6))
    shape += random.uniform(-geology.tilt, geology.tilt) * (knots / _WIDTH - 0.5)
    return shape, knots


def _undo_fault(
    random: np.random.Generator, z_HW: np.ndarray, x_HW: np.ndarray, throw: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Slide one side of a dipping line back along it."""
    dip = np.deg2rad(random.uniform(40.0, 80.0)) * random.choice((-1.0, 1.0))
    crossing = random.uniform(0.15, 0.85) * _WIDTH
    slip = random.uniform(*throw) * random.choice((-1.0, 1.0))
    moved = x_HW - crossing > (z_HW - 0.5 * _DEPTH) / np.tan(dip)
    return z_HW - np.where(moved, slip, 0.0), x_HW - np.where(moved, slip / np.tan(dip), 0.0)


def _step(map_HW: np.ndarray, velocity: float, below_HW: np.ndarray, soft: bool) -> np.ndarray:
    """Fill in a layer where ``below_HW``, the depth under its top in cells, is positive."""
    share = np.clip(below_HW + 0.5, 0.0, 1.0) if soft else below_HW > 0
    return map_HW + (velocity - map_HW) * share


def _style_map(random: np.random.Generator, smoothness: tuple[float, float]) -> np.ndarray:
    """One smooth random map whose velocity rises with depth on the whole, (70, 70) m/s."""
    sigma = random.uniform(*smoothness)
    field = gaussian_filter(random.standard_normal((_DEPTH, _WIDTH)), sigma, mode="reflect")
    bend = gaussian_filter(random.standard_normal((_DEPTH, _WIDTH)), 2 * sigma, mode="reflect")
    field = field / field.std() + random.uniform(0.3, 1.0) * bend / bend.std()
    field += random.uniform(0.8, 2.2) * np.linspace(-1.0, 1.0, _DEPTH)[:, None]
    field = (field - field.min()) / np.ptp(field)
    low, high = VELOCITY_RANGE
    top, bottom = random.uniform(low, low + 500.0), random.uniform(high - 700.0, high)
    return (top + (bottom - top) * field).astype(np.float32)


def write_synthetic(
    family: Family,
    train: int,
    val: int,
    seed: int,
    out: Path,
    *,
    replace: bool = False,
    progress: Callable[[int, int], None] | None = None,
    shard: Shard = WHOLE,
) -> list[Path]:
    """Write velocity maps in OpenFWI layout: 500 a file, file numbers on both sides of the official split.

    Files appear whole or not at all. The same call again finishes what was cut short and keeps what is there.

    Args:
        replace: other synthetic maps in the folder make way, with their gathers; without it they are an error. A
            folder with anything else in it is always an error.
        progress: called with (maps written, maps in all).
        shard: the part of the files to write; the others may be written at the same time.

    Returns:
        The velocity files of this part, training first.

    Raises:
        UsageError: more samples than the family has files for, or a side without samples.
        DataError: the folder already holds other data, or cannot be written.
    """
    report = progress or (lambda done, total: None)
    plan = shard.of(_plan(family, train, val, out))
    total = sum(file.samples for file in plan)
    requested = asdict(SyntheticSet(family, seed, train, val))
    manifest = out / MANIFEST
    try:
        # The manifest comes first: what is there before it, but for one that is being written, is not ours.
        foreign = [path for path in out.iterdir() if MANIFEST not in path.name] if out.is_dir() else []
        written = parse_json(manifest.read_bytes()) if manifest.exists() else None
        if written is None and foreign:
            raise DataError(_("{folder} is not empty").format(folder=out), _("choose another folder"))
        if written not in (None, requested):
            if not replace:
                raise DataError(
                    _("{folder} already holds other synthetic maps").format(folder=out), _("choose another folder")
                )
            _clear(out)
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(manifest, dump_json(requested, indent=1))
        done = 0
        for file in plan:
            file.path.parent.mkdir(exist_ok=True)
            if not file.path.exists():
                content = io.BytesIO()
                np.save(content, synthesise_velocity(family, file.samples, seed, file.first), allow_pickle=False)
                write_atomic(file.path, content.getvalue())
            done += file.samples
            report(done, total)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(
            _("cannot write {folder}: {why}").format(folder=out, why=why), _("choose another folder")
        ) from error
    return [file.path for file in plan]


def write_maps(path: Path, data: DataConfig, seed: int, start: int) -> None:
    """Write ``data.synth_maps`` training maps from sample ``start`` on into one file.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, synthesise_velocity(data.family, data.synth_maps, seed, start), allow_pickle=False)
    except OSError as error:
        raise DataError(
            _("cannot write {folder}: {why}").format(folder=path.parent, why=error.strerror),
            _("choose another folder"),
        ) from error


@dataclass(frozen=True)
class _PlannedFile:
    path: Path
    samples: int
    first: int
    """Index of its first sample."""


def _plan(family: Family, train: int, val: int, out: Path) -> list[_PlannedFile]:
    facts = FAMILIES[family]
    plan = []
    sides: tuple[tuple[Literal["train", "val"], int, int], ...] = (("train", train, 0), ("val", val, VALIDATION_START))
    for side, count, start in sides:
        ids = facts.file_ids(side)
        if not 1 <= count <= len(ids) * SAMPLES_PER_FILE:
            raise UsageError(
                _("{count} synthetic {side} samples asked for; {family} has room for 1 to {most}").format(
                    count=count, side=side, family=family, most=len(ids) * SAMPLES_PER_FILE
                ),
                _("ask for another number"),
            )
        for id, first in zip(ids, range(0, count, SAMPLES_PER_FILE), strict=False):
            path = out / id.relative_path("velocity")
            plan.append(_PlannedFile(path, min(SAMPLES_PER_FILE, count - first), start + first))
    return plan


def _clear(out: Path) -> None:
    """Remove the files that ubq made here: synthetic maps and their gathers."""
    for path in [*out.iterdir(), *out.glob("*/*")]:
        unfinished = path.suffix in (".partial", ".done")
        if parse_name(path.stem.removeprefix(".") if unfinished else path.name):
            path.unlink()
