"""Velocity maps and the shot gathers that belong to them: found by name, split, read a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ubq.data.array_file import ArrayFile, open_array
from ubq.data.families import FAMILIES, SEISMIC_SHAPE, FileId, Kind, parse_name
from ubq.data.normalization import Normalization
from ubq.errors import DataError
from ubq.i18n import gettext as _

if TYPE_CHECKING:
    from ubq.config.schema import DataConfig

_SPLIT_KEY = 0x5B11
"""Keeps the random draw of the split apart from other draws of the same seed."""


@dataclass(frozen=True)
class FilePair:
    """One velocity file and, where it was asked for, the seismic file of the same samples."""

    velocity: ArrayFile
    seismic: ArrayFile | None
    id: FileId | None
    """None for a single file that is not named as OpenFWI names its files."""

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
        """Whether the gathers were asked for when the pairs were opened."""
        return all(pair.seismic is not None for pair in self.files)

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

    def subset(self, indices: Sequence[int] | np.ndarray) -> Pairs:
        """The pairs at ``indices``, in that order."""
        return Pairs(self.files, self.members[np.asarray(indices, np.int64)])

    def __add__(self, other: Pairs) -> Pairs:
        """These pairs, then the other's."""
        moved = other.members + np.array([len(self.files), 0])
        return Pairs((*self.files, *other.files), np.concatenate([self.members, moved]))

    def _read(self, indices: Sequence[int] | np.ndarray, kind: Kind) -> torch.Tensor:
        rows = self.members[np.asarray(indices, np.int64)]
        arrays = [pair.velocity if kind == "velocity" else pair.seismic for pair in self.files]
        first = arrays[0]
        assert first is not None, "opened without seismic"
        batch = np.empty((len(rows), *first.sample_shape), np.float32)
        for position, (file, row) in enumerate(rows):
            array = arrays[file]
            assert array is not None, "opened without seismic"
            array.read_into(batch[position : position + 1], (int(row),))
        return torch.from_numpy(batch)


@dataclass(frozen=True)
class Split:
    """Training and held-out samples, and in words how they were told apart."""

    train: Pairs
    val: Pairs
    rule: str


def open_pairs(
    data: DataConfig, seed: int, need_seismic: bool = True, seismic_shape: tuple[int, ...] = SEISMIC_SHAPE
) -> Split:
    """Find the files that a configuration names and split them into training and validation.

    Folders may hold both kinds of file, subfolders of them (``data/`` and ``model/``), or one kind each; a path may
    also be a single file or a pattern (``maps/model*.npy``). The split is, in this order: the validation folders that
    were given; the family's official file numbers; a random share ``val_fraction`` keyed by ``seed``, but at least
    ``min_val_samples`` and at most half. It never depends on ``need_seismic``.

    Args:
        need_seismic: False promises that no seismic file is opened.

    Raises:
        DataError: nothing found, a file without partner or that cannot be used, too few samples to split.
    """
    train_files = find_files(data.train_velocity, data.train_seismic, need_seismic, seismic_shape)
    if data.val_velocity or data.val_seismic:
        val_files = find_files(data.val_velocity, data.val_seismic, need_seismic, seismic_shape)
        shared = {pair.velocity.path.resolve() for pair in train_files} & {
            pair.velocity.path.resolve() for pair in val_files
        }
        if shared:
            raise DataError(
                _("{path} is both training and validation data").format(path=min(shared)),
                _("give data.val_velocity a folder of its own, or leave it empty"),
            )
        return Split(_all_of(train_files), _all_of(val_files), _("validation folder given"))

    facts = FAMILIES[data.family]
    ids = [pair.id for pair in train_files]
    if all(id is not None and facts.owns(id) for id in ids):
        held_out = [id is not None and facts.held_out(id) for id in ids]
        if any(held_out) and not all(held_out):
            every = _all_of(train_files)
            side = np.asarray(held_out)[every.members[:, 0]]
            return Split(
                Pairs(every.files, every.members[~side]),
                Pairs(every.files, every.members[side]),
                _("official file numbers of {family}").format(family=data.family),
            )
        reason = _("the official file numbers of {family} leave one side empty").format(family=data.family)
    else:
        reason = _("the file names are not those of {family}").format(family=data.family)
    every = _all_of(train_files)
    total = len(every)
    if total < 2:
        raise DataError(
            _("{folder} holds one sample, which cannot be split").format(
                folder=data.train_velocity or data.train_seismic
            ),
            _("add samples, or give data.val_velocity"),
        )
    held = held_out_samples(total, data)
    order = np.random.default_rng((seed, _SPLIT_KEY)).permutation(total)
    rule = _("random {held} of {total} samples held out with seed {seed}, because {reason}").format(
        held=held, total=total, seed=seed, reason=reason
    )
    return Split(every.subset(np.sort(order[held:])), every.subset(np.sort(order[:held])), rule)


def maps_of_file(path: Path) -> Pairs:
    """All maps of one velocity file, without gathers.

    Raises:
        DataError: the file cannot be used.
    """
    return _all_of([FilePair(open_array(path, "velocity"), None, None)])


def held_out_samples(total: int, data: DataConfig) -> int:
    """Samples that a random split holds out: the share asked for, but at least the minimum, at most half."""
    return min(max(round(total * data.val_fraction), data.min_val_samples), total // 2)


def _all_of(files: Sequence[FilePair]) -> Pairs:
    parts = [
        np.stack([np.full(pair.samples, number, np.int64), np.arange(pair.samples, dtype=np.int64)], axis=1)
        for number, pair in enumerate(files)
    ]
    return Pairs(tuple(files), np.concatenate(parts))


def find_files(
    velocity: str | Path, seismic: str | Path, need_seismic: bool, seismic_shape: tuple[int, ...] = SEISMIC_SHAPE
) -> list[FilePair]:
    """Pair the files of two places; either may be empty when the other holds both kinds.

    Raises:
        DataError: as :func:`open_pairs`.
    """
    velocity, seismic = str(velocity), str(seismic)
    if not velocity and not seismic:
        raise DataError(
            _("no data folder is given"), _("set data.train_velocity and data.train_seismic, or leave both to ubq run")
        )
    velocity_paths = list_files(velocity or seismic, "velocity")
    if not need_seismic:
        return [FilePair(open_array(path, "velocity"), None, id) for id, path in velocity_paths]
    seismic_paths = list_files(seismic or velocity, "seismic")
    if len(velocity_paths) == 1 and len(seismic_paths) == 1 and None in (velocity_paths[0][0], seismic_paths[0][0]):
        # Two single files belong together whatever their names are.
        matched = [(velocity_paths[0][0], velocity_paths[0][1], seismic_paths[0][1])]
    else:
        matched = _match(velocity_paths, seismic_paths, seismic or velocity, velocity or seismic)
    pairs = []
    for id, velocity_path, seismic_path in matched:
        pair = FilePair(open_array(velocity_path, "velocity"), open_array(seismic_path, "seismic", seismic_shape), id)
        assert pair.seismic is not None
        if pair.seismic.samples != pair.samples:
            raise DataError(
                _("{seismic} has {given} samples, but {velocity} has {wanted}").format(
                    seismic=seismic_path, given=pair.seismic.samples, velocity=velocity_path, wanted=pair.samples
                ),
                _(
                    "remove both, or the gathers and model them: ubq data forward --velocity {folder} --out {out}"
                ).format(folder=velocity_path.parent, out=seismic_path.parent),
            )
        pairs.append(pair)
    return pairs


def _match(
    velocity: list[tuple[FileId | None, Path]],
    seismic: list[tuple[FileId | None, Path]],
    seismic_place: str,
    velocity_place: str,
) -> list[tuple[FileId | None, Path, Path]]:
    seismic_by_id, velocity_ids = dict(seismic), {id for id, _path in velocity}
    for id, path in velocity:
        if id is None or id not in seismic_by_id:
            raise DataError(
                _("{path} has no partner {partner} in {folder}").format(
                    path=path,
                    partner=id.name("seismic") if id else _("(its name is not one of OpenFWI's)"),
                    folder=seismic_place,
                ),
                _("make it with ubq data forward --velocity {folder} --out {out}").format(
                    folder=path.parent, out=seismic_place
                ),
            )
    for id, path in seismic:
        if id not in velocity_ids:
            raise DataError(
                _("{path} has no partner {partner} in {folder}").format(
                    path=path,
                    partner=id.name("velocity") if id else _("(its name is not one of OpenFWI's)"),
                    folder=velocity_place,
                ),
                _("add the velocity maps, or remove the file"),
            )
    return [(id, path, seismic_by_id[id]) for id, path in velocity]


def list_files(place: str | Path, kind: Kind) -> list[tuple[FileId | None, Path]]:
    """Files of one kind in a folder (or its subfolders), a single file, or a pattern; in the order of their numbers.

    Raises:
        DataError: the place is missing, empty, unreadable, or holds two files of one name.
    """
    path = Path(place).expanduser()
    found: dict[FileId, Path] = {}
    try:
        if path.is_file():
            parsed = parse_name(path.name)
            return [(parsed[1] if parsed and parsed[0] == kind else None, path)]
        if path.is_dir():
            candidates = _candidates(path, kind)
        elif any(c in path.name for c in "*?["):
            candidates = sorted(path.parent.glob(path.name))
        else:
            raise DataError(_("{path} does not exist").format(path=path), _("check the path"))
    except OSError as error:
        raise DataError(_("cannot read {path}: {why}").format(path=path, why=error.strerror or error)) from error
    for candidate in candidates:
        parsed = parse_name(candidate.name)
        if parsed is None or parsed[0] != kind:
            continue
        if parsed[1] in found:
            raise DataError(
                _("{first} and {second} have the same name").format(first=found[parsed[1]], second=candidate),
                _("name one folder, not the folder above both"),
            )
        found[parsed[1]] = candidate
    if not found:
        wanted = "model*.npy, vel*.npy" if kind == "velocity" else "data*.npy, seis*.npy"
        if not candidates:
            text = _("{path} holds no .npy file").format(path=path)
        else:
            text = _("{path} holds no {kind} file ({wanted})").format(
                path=path, kind=_("velocity") if kind == "velocity" else _("seismic"), wanted=wanted
            )
        raise DataError(text, _("name the folder with the OpenFWI files"))
    return [(id, found[id]) for id in sorted(found)]


def has_files(place: str | Path, kind: Kind) -> bool:
    """Whether a folder has files of one kind, in itself or in its subfolders."""
    path = Path(place).expanduser()
    if not path.is_dir():
        return False
    return any((parsed := parse_name(p.name)) and parsed[0] == kind for p in _candidates(path, kind))


def _candidates(folder: Path, kind: Kind) -> list[Path]:
    """``.npy`` files of the folder itself or, where it has none of this kind, of its subfolders."""
    here = sorted(folder.glob("*.npy"))
    if any((parsed := parse_name(path.name)) and parsed[0] == kind for path in here):
        return here
    below = sorted(path for path in folder.glob("*/*.npy") if not path.parent.name.startswith("."))
    return here + below
