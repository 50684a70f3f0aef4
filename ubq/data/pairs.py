"""Velocity maps and the shot gathers that belong to them: opened, split, read a batch at a time."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ubq.data.array_file import ArrayFile, open_array
from ubq.data.families import FAMILIES, SEISMIC_SHAPE, FileId, Kind
from ubq.data.files import forward_command, match_files
from ubq.data.normalization import Normalization
from ubq.errors import DataError
from ubq.i18n import gettext as _

if TYPE_CHECKING:
    from ubq.config.schema import DataConfig

_SPLIT_KEY = 0x5B11
"""Keeps the random draw of the split apart from other draws of the same seed."""


@dataclass(frozen=True)
class FilePair:
    """One velocity file and, where there is one, the seismic file of the same samples.

    Attributes:
        velocity: opened.
        seismic: opened; None where there is none, or it was not asked for.
        id: None for a single file that is not named as OpenFWI names its files.
        gathers: samples that have gathers, the file's first; of a seismic file that was not opened too.
    """

    velocity: ArrayFile
    seismic: ArrayFile | None
    id: FileId | None
    gathers: int

    @property
    def samples(self) -> int:
        return self.velocity.samples


@dataclass(frozen=True)
class Pairs:
    """A choice of samples out of some files. Resident memory is that of the batches alone.

    Args:
        files: the files.
        members: (N, 2) int64: file and row of every sample.
    """

    files: tuple[FilePair, ...]
    members: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.members)

    @property
    def has_seismic(self) -> bool:
        """Whether every sample has gathers that were asked for when the pairs were opened."""
        opened = np.array([pair.seismic is not None for pair in self.files], bool)
        return bool((self.paired & opened[self.members[:, 0]]).all())

    @property
    def paired(self) -> np.ndarray:
        """Whether each sample has gathers, (N,) bool."""
        gathers = np.array([pair.gathers for pair in self.files], np.int64)
        return self.members[:, 1] < gathers[self.members[:, 0]]

    def with_seismic(self) -> Pairs:
        """Those samples that have gathers."""
        paired = self.paired
        return self if paired.all() else self.subset(np.flatnonzero(paired))

    def velocity(self, index: int) -> torch.Tensor:
        """One map, (1, 70, 70) float32, m/s."""
        return self.velocity_batch([index])[0]

    def seismic(self, index: int) -> torch.Tensor:
        """The gathers of one map, (5, 1000, 70) float32."""
        return self.seismic_batch([index])[0]

    def velocity_batch(
        self, indices: Sequence[int] | np.ndarray, normalization: Normalization | None = None
    ) -> torch.Tensor:
        """Maps of these samples, (B, 1, 70, 70) float32: m/s, or in [-1, 1] where ``normalization`` is given."""
        batch = self._read(indices, "velocity")
        return batch if normalization is None else normalization.velocity(batch)

    def seismic_batch(
        self, indices: Sequence[int] | np.ndarray, normalization: Normalization | None = None
    ) -> torch.Tensor:
        """Gathers of these samples, (B, 5, 1000, 70) float32: amplitudes, or log-normalised to [-1, 1]."""
        batch = self._read(indices, "seismic")
        return batch if normalization is None else normalization.seismic(batch)

    def joined(self, other: Pairs) -> Pairs:
        """These samples, and others of other files at their end."""
        moved = other.members + np.array([len(self.files), 0])
        return Pairs((*self.files, *other.files), np.concatenate([self.members, moved]))

    def subset(self, indices: Sequence[int] | np.ndarray) -> Pairs:
        """The pairs at ``indices``, in that order."""
        return Pairs(self.files, self.members[np.asarray(indices, np.int64)])

    def _read(self, indices: Sequence[int] | np.ndarray, kind: Kind) -> torch.Tensor:
        rows = self.members[np.asarray(indices, np.int64)]
        arrays = [pair.velocity if kind == "velocity" else pair.seismic for pair in self.files]
        shape = next((array.sample_shape for array in arrays if array is not None), None)
        assert shape is not None, "opened without seismic"
        batch = np.empty((len(rows), *shape), np.float32)
        for position, (file, row) in enumerate(rows):
            array = arrays[file]
            assert array is not None, "this sample has no seismic, or was opened without"
            array.read_into(batch[position : position + 1], (int(row),))
        return torch.from_numpy(batch)


@dataclass(frozen=True)
class Split:
    """Training and held-out samples, and in words how they were told apart.

    ``sha256``: of the split that a run has written down (``ubq.data.split``); empty before.
    """

    train: Pairs
    val: Pairs
    rule: str
    sha256: str = ""

    def with_training_maps(self, maps: Pairs) -> Split:
        """These samples, and at the end of the training side others that have no gathers."""
        assert self.val.files is self.train.files, "one list of files for both sides"
        train = self.train.joined(maps)
        return Split(train, Pairs(train.files, self.val.members), self.rule, self.sha256)

    def pairs(self) -> Split:
        """Both sides without the maps that have no gathers.

        Raises:
            DataError: a side has none left.
        """
        complete = Split(self.train.with_seismic(), self.val.with_seismic(), self.rule, self.sha256)
        for side, name in ((complete.train, _("training")), (complete.val, _("held-out"))):
            if not len(side):
                raise DataError(
                    _("no {side} map has shot gathers, of which the seismic decoder learns").format(side=name),
                    _model_them(side.files, "--train-data" if side.files is self.train.files else "--val-data"),
                )
        return complete


def _model_them(files: Sequence[FilePair], option: str) -> str:
    """The command that gives every map its gathers; ``option`` takes their folder."""
    maps = files[0].velocity.path.parent
    out = next((pair.seismic.path.parent for pair in files if pair.seismic), maps)
    short = any(0 < pair.gathers < pair.samples for pair in files)
    if short:  # what is there is not modelled over, so it goes elsewhere
        named = (out.with_name(f"{out.name}-modelled{number or ''}") for number in itertools.count())
        out = next(folder for folder in named if not folder.exists())
    command = forward_command(maps, out)
    if short:
        text = _("model them all: {command}; then give {option}")
        return text.format(command=command, option=shlex.join([option, str(out)]))
    return _("model them: {command}").format(command=command)


def open_pairs(
    data: DataConfig, seed: int, need_seismic: bool = True, seismic_shape: tuple[int, ...] = SEISMIC_SHAPE
) -> Split:
    """Find the files that a configuration names (``ubq.data.files``) and split them into training and validation.

    The split is, in this order: the validation folders that were given; the family's official file numbers; a random
    share ``val_fraction`` keyed by ``seed``, but at least ``min_val_samples`` and at most half. Where only some maps
    have gathers, a side that has none of them is as good as empty: the share is then drawn from the maps with gathers
    and from the others alike.

    Args:
        need_seismic: False promises that no seismic file is opened; each is then taken to be as long as its maps.

    Raises:
        DataError: nothing found, a file that cannot be used, too few samples to split.
    """
    train_files = open_files(data.train_velocity, data.train_seismic, need_seismic, seismic_shape)
    if data.val_velocity or data.val_seismic:
        val_files = open_files(data.val_velocity, data.val_seismic, need_seismic, seismic_shape)
        shared = {pair.velocity.path.resolve() for pair in train_files} & {
            pair.velocity.path.resolve() for pair in val_files
        }
        if shared:
            raise DataError(
                _("{path} is both training and validation data").format(path=min(shared)),
                _("give data.val_velocity a folder of its own, or leave it empty"),
            )
        return Split(_all_of(train_files), _all_of(val_files), _("validation folder given"))

    facts, every = FAMILIES[data.family], _all_of(train_files)
    ids = [pair.id for pair in train_files]
    if all(id is not None and facts.owns(id) for id in ids):
        held_out = np.array([id is not None and facts.held_out(id) for id in ids])
        side = held_out[every.members[:, 0]]
        # with no gathers at all there is nothing to balance
        counted = every.paired if every.paired.any() else np.ones(len(every), bool)
        if (side & counted).any() and (~side & counted).any():
            return Split(
                every.subset(np.flatnonzero(~side)),
                every.subset(np.flatnonzero(side)),
                _("official file numbers of {family}").format(family=data.family),
            )
        reason = _("the official file numbers of {family} leave one side empty").format(family=data.family)
        if side.any() and not side.all():
            reason = _("the official file numbers of {family} leave one side without gathers").format(
                family=data.family
            )
    else:
        reason = _("the file names are not those of {family}").format(family=data.family)
    total = len(every)
    if total < 2:
        raise DataError(
            _("{folder} holds one sample, which cannot be split").format(
                folder=data.train_velocity or data.train_seismic
            ),
            _("add samples, or give data.val_velocity"),
        )
    order = np.random.default_rng((seed, _SPLIT_KEY)).permutation(total)
    paired = every.paired[order]
    held = np.zeros(total, bool)
    held[order[paired][: held_out_samples(int(paired.sum()), data)]] = True
    rest = held_out_samples(total, data) - int(held.sum())
    held[order[~paired][: min(max(rest, 0), int((~paired).sum()) // 2)]] = True
    rule = _("random {held} of {total} samples held out with seed {seed}, because {reason}").format(
        held=int(held.sum()), total=total, seed=seed, reason=reason
    )
    return Split(every.subset(np.flatnonzero(~held)), every.subset(np.flatnonzero(held)), rule)


def maps_of_file(path: Path) -> Pairs:
    """All maps of one velocity file, without gathers.

    Raises:
        DataError: the file cannot be used.
    """
    return _all_of([FilePair(open_array(path, "velocity"), None, None, gathers=0)])


def pairs_of_files(files: Sequence[tuple[Path, Path]], seismic_shape: tuple[int, ...]) -> Pairs:
    """All samples of velocity files and their seismic files, in order.

    Raises:
        DataError: a file cannot be used.
    """
    pairs = []
    for velocity, seismic in files:
        maps, gathers = open_array(velocity, "velocity"), open_array(seismic, "seismic", seismic_shape)
        pairs.append(FilePair(maps, gathers, None, gathers.samples))
    return _all_of(pairs)


def held_out_samples(total: int, data: DataConfig) -> int:
    """Samples that a random split holds out: the share asked for, but at least the minimum, at most half."""
    return min(max(round(total * data.val_fraction), data.min_val_samples), total // 2)


def _all_of(files: Sequence[FilePair]) -> Pairs:
    parts = [
        np.stack([np.full(pair.samples, number, np.int64), np.arange(pair.samples, dtype=np.int64)], axis=1)
        for number, pair in enumerate(files)
    ]
    return Pairs(tuple(files), np.concatenate(parts))


def open_files(
    velocity: str | Path, seismic: str | Path, need_seismic: bool, seismic_shape: tuple[int, ...] = SEISMIC_SHAPE
) -> list[FilePair]:
    """The velocity files of one location with their partners in another (``ubq.data.files.match_files``), opened.

    A seismic file that is shorter than its velocity file belongs to the first maps of it.

    Raises:
        DataError: as :func:`open_pairs`; a seismic file is longer than its velocity file.
    """
    pairs = []
    for match in match_files(velocity, seismic):
        maps = open_array(match.velocity.path, "velocity")
        gathers = None
        if need_seismic and match.seismic is not None:
            gathers = open_array(match.seismic.path, "seismic", seismic_shape)
            if gathers.samples > maps.samples:
                raise DataError(
                    _("{seismic} has {given} samples, but {velocity} has {wanted}").format(
                        seismic=gathers.path, given=gathers.samples, velocity=maps.path, wanted=maps.samples
                    ),
                    _("set the seismic aside and model it again: {command}").format(
                        command=_model_again(maps.path, gathers.path)
                    )
                    if match.id
                    else _("add the velocity maps, or remove the file"),
                )
        count = gathers.samples if gathers else maps.samples if match.seismic else 0
        pairs.append(FilePair(maps, gathers, match.id, count))
    return pairs


def _model_again(velocity: Path, seismic: Path) -> str:
    """The command that models a seismic file anew, and keeps the old one under a name that no data file has."""
    aside = shlex.join(["mv", "-n", str(seismic), f"{seismic}.aside"])
    return f"{aside} && {forward_command(velocity, seismic.parent)}"
