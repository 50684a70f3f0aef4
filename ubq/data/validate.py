"""One pass over every sample before training: what a damaged data set would cost hours to find out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ubq.config.schema import Family
from ubq.data.array_file import ArrayFile
from ubq.data.families import FAMILIES, SEISMIC_SHAPE, VELOCITY_RANGE, Kind, recognise
from ubq.data.files import has_files
from ubq.data.normalization import Normalization, for_config
from ubq.data.pairs import FilePair, Pairs, Split, open_files, open_pairs
from ubq.data.plausible import check_finite, check_velocity
from ubq.i18n import gettext as _

if TYPE_CHECKING:
    from ubq.config.schema import DataConfig

_TOLERANCE = 0.1
"""Share of the range that seismic amplitudes may lie outside it before a warning: OpenFWI's own ranges are rounded."""
_CHUNK = 16


@dataclass(frozen=True)
class FileReport:
    """What one file holds; ``minimum`` and ``maximum`` in m/s or as amplitudes."""

    path: str
    kind: Kind
    samples: int
    shape: tuple[int, ...]
    dtype: str
    minimum: float
    maximum: float
    zero_samples: tuple[int, ...]
    """Samples that are zero everywhere, the first ten."""


@dataclass(frozen=True)
class DataReport:
    """What a data set holds.

    ``families``: those that the names allow. ``train_samples`` and ``val_samples``: after the split that the run will
    use or, where only a folder was named, by the official file numbers if the names tell enough.
    """

    samples: int
    files: tuple[FileReport, ...]
    families: tuple[Family, ...]
    velocity_shape: tuple[int, ...]
    seismic_shape: tuple[int, ...] | None
    velocity_range: tuple[float, float]
    seismic_range: tuple[float, float] | None
    without_seismic: int
    """Maps that have no gathers, where others do: the autoencoder and the U-Net learn from them alone."""
    train_samples: int | None
    val_samples: int | None
    split_rule: str
    normalization: Normalization | None
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For ``dataset.json`` and ``--json``."""
        return asdict(self)

    def summary(self) -> str:
        """One line for people."""
        kinds = _("pairs") if self.seismic_shape and not self.without_seismic else _("velocity maps")
        text = _("{samples} {kinds} in {files} files, {low:.0f} to {high:.0f} m/s").format(
            samples=self.samples,
            kinds=kinds,
            files=len(self.files),
            low=self.velocity_range[0],
            high=self.velocity_range[1],
        )
        if self.without_seismic:
            text += _("; {count} maps without gathers, for the autoencoder and the U-Net alone").format(
                count=self.without_seismic
            )
        if self.train_samples is None:
            return text
        return text + _("; {train} for training, {val} held out: {rule}").format(
            train=self.train_samples, val=self.val_samples, rule=self.split_rule
        )


def validate(
    data: DataConfig,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    need_seismic: bool = True,
    seismic_shape: tuple[int, ...] = SEISMIC_SHAPE,
) -> DataReport:
    """Read every sample that a configuration names.

    Args:
        progress: called with (samples read, samples to read).

    Raises:
        DataError: the first thing found that training could not use, with file, sample and fix.
    """
    split = open_pairs(data, seed, need_seismic, seismic_shape)
    if need_seismic:
        split.pairs()  # neither side is without
    return validate_split(split, data, progress)


def validate_split(split: Split, data: DataConfig, progress: Callable[[int, int], None] | None = None) -> DataReport:
    """Read every sample of a split; ``data`` says what it should be. As :func:`validate`."""
    files = {pair.velocity.path: pair for side in (split.train, split.val) for pair in side.files}
    return _report(tuple(files.values()), progress, split.train, split.val, split.rule, for_config(data), data.family)


def inspect_folder(
    folder: Path, seismic: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> DataReport:
    """Read every sample of a folder: pairs, or velocity maps alone where there is no seismic file.

    Args:
        folder: velocity maps, and the seismic files where ``seismic`` is None.

    Raises:
        DataError: as :func:`validate`.
    """
    need_seismic = seismic is not None or has_files(folder, "seismic")
    return _report(tuple(open_files(folder, seismic or folder, need_seismic)), progress)


def _report(
    files: tuple[FilePair, ...],
    progress: Callable[[int, int], None] | None,
    train: Pairs | None = None,
    val: Pairs | None = None,
    rule: str = "",
    normalization: Normalization | None = None,
    family: Family | None = None,
) -> DataReport:
    arrays: list[tuple[Kind, ArrayFile]] = [("velocity", pair.velocity) for pair in files]
    arrays += [("seismic", pair.seismic) for pair in files if pair.seismic is not None]
    total, done, reports = sum(array.samples for _kind, array in arrays), 0, []
    for kind, array in arrays:

        def advance(count: int, before: int = done) -> None:
            if progress:
                progress(before + count, total)

        reports.append(_read_file(kind, array, advance))
        done += array.samples
    ids = [pair.id for pair in files if pair.id is not None]
    folders = {part for pair in files for part in pair.velocity.path.resolve().parent.parts[-3:]}
    families = recognise(ids, folders) if len(ids) == len(files) else ()
    train_samples, val_samples = (len(train), len(val)) if train is not None and val is not None else (None, None)
    if train_samples is None and (official := _official_counts(files, families)):
        train_samples, val_samples = official
        rule = _("official file numbers")
    velocity_range = _range(reports, "velocity")
    assert velocity_range is not None
    seismic_range = _range(reports, "seismic")
    seismic = next((pair.seismic for pair in files if pair.seismic is not None), None)
    return DataReport(
        samples=sum(pair.samples for pair in files),
        files=tuple(reports),
        families=families,
        velocity_shape=files[0].velocity.sample_shape,
        seismic_shape=seismic.sample_shape if seismic is not None else None,
        velocity_range=velocity_range,
        seismic_range=seismic_range,
        without_seismic=sum(pair.samples - pair.gathers for pair in files) if seismic is not None else 0,
        train_samples=train_samples,
        val_samples=val_samples,
        split_rule=rule,
        normalization=normalization,
        warnings=(
            *_shorter(files),
            *_warnings(reports, velocity_range, seismic_range, families, family, normalization),
        ),
    )


def _official_counts(files: Sequence[FilePair], families: Sequence[Family]) -> tuple[int, int] | None:
    """Training and held-out samples by file number, where all the families that it may be agree.

    None where one side is empty: a run then holds out a random share instead.
    """
    counts = set()
    for name in families:
        held_out = sum(pair.samples for pair in files if pair.id is not None and FAMILIES[name].held_out(pair.id))
        counts.add((sum(pair.samples for pair in files) - held_out, held_out))
    return counts.pop() if len(counts) == 1 and all(min(counts)) else None


def _read_file(kind: Kind, array: ArrayFile, advance: Callable[[int], None]) -> FileReport:
    low, high = math.inf, -math.inf
    zeros: list[int] = []
    buffer = np.empty((min(_CHUNK, array.samples), *array.sample_shape), np.float32)
    for first in range(0, array.samples, _CHUNK):
        rows = range(first, min(first + _CHUNK, array.samples))
        chunk = buffer[: len(rows)]
        array.read_into(chunk, rows)
        flat = chunk.reshape(len(rows), -1)
        lows, highs = flat.min(axis=1), flat.max(axis=1)
        for row, sample_low, sample_high in zip(rows, lows.tolist(), highs.tolist(), strict=True):
            # the smallest and the largest value of a sample tell of every NaN and infinity in it
            check_finite(array.path, row, sample_low, sample_high)
            if kind == "velocity":
                check_velocity(array.path, row, sample_low, sample_high)
            elif sample_low == sample_high == 0 and len(zeros) < 10:
                zeros.append(row)
        low, high = min(low, float(lows.min())), max(high, float(highs.max()))
        advance(rows.stop)
    shape = (array.samples, *array.sample_shape)
    return FileReport(str(array.path), kind, array.samples, shape, np.dtype(array.dtype).name, low, high, tuple(zeros))


def _range(reports: Iterable[FileReport], kind: Kind) -> tuple[float, float] | None:
    mine = [report for report in reports if report.kind == kind]
    return (min(r.minimum for r in mine), max(r.maximum for r in mine)) if mine else None


def _shorter(files: Iterable[FilePair]) -> Iterable[str]:
    for pair in files:
        if pair.seismic is not None and pair.gathers < pair.samples:
            yield _(
                "{seismic} has {given} samples, {velocity} {wanted}: taken as the gathers of its first maps"
            ).format(seismic=pair.seismic.path, given=pair.gathers, velocity=pair.velocity.path, wanted=pair.samples)


def _warnings(
    reports: list[FileReport],
    velocity: tuple[float, float],
    seismic: tuple[float, float] | None,
    families: tuple[Family, ...],
    family: Family | None,
    normalization: Normalization | None,
) -> Iterable[str]:
    if family is not None and families and family not in families:
        yield _("data.family is {family}, but the file names are those of {families}").format(
            family=family, families=", ".join(families)
        )
    if normalization is None:
        # nobody has said how to scale: OpenFWI's ranges, the widest of the families that it may be
        possible = [FAMILIES[name].amplitude for name in families or tuple(FAMILIES)]
        amplitude = min(low for low, _high in possible), max(high for _low, high in possible)
        normalization = Normalization(*amplitude, *VELOCITY_RANGE)
    low, high = normalization.velocity_min, normalization.velocity_max
    if velocity[0] < low - 1 or velocity[1] > high + 1:
        yield _("velocities {a:.0f} to {b:.0f} m/s lie outside the normalisation range {low:.0f} to {high:.0f}").format(
            a=velocity[0], b=velocity[1], low=low, high=high
        )
    if seismic is not None:
        low, high = normalization.amplitude_min, normalization.amplitude_max
        slack = _TOLERANCE * (high - low)
        if seismic[0] < low - slack or seismic[1] > high + slack:
            yield _("amplitudes {a:.2f} to {b:.2f} lie outside the normalisation range {low:.2f} to {high:.2f}").format(
                a=seismic[0], b=seismic[1], low=low, high=high
            )
        elif max(-seismic[0], seismic[1]) < 0.1 * high:
            yield _(
                "amplitudes {a:.3g} to {b:.3g} are far smaller than the normalisation range: scaled already?"
            ).format(a=seismic[0], b=seismic[1])
    for report in reports:
        if report.zero_samples:
            yield _("{path}: gathers that are zero everywhere, the first is sample {row}").format(
                path=report.path, row=report.zero_samples[0]
            )
        if report.dtype != "float32":
            yield _("{path} is {dtype} and is converted to float32 whenever it is read").format(
                path=report.path, dtype=report.dtype
            )
