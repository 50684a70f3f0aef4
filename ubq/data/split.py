"""The split of a run: decided once, by ``prepare``, kept in ``dataset.json``, and read by every later stage.

In ``dataset.json`` under ``split``: ``files``, each with its path (from the run's folder, where it lies inside),
samples, how many of them have gathers, and content; ``train`` and ``val``, as [file, first row, row after the last] in
order; ``rule``; and ``sha256`` over the content of the velocity files and both sides, which the latents carry too.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ubq.data.array_file import ArrayFile, open_array
from ubq.data.content import content_of
from ubq.data.families import parse_name
from ubq.data.pairs import FilePair, Pairs, Split
from ubq.errors import DataError
from ubq.i18n import gettext as _


@dataclass(frozen=True)
class SampleIds:
    """Which samples each side has, without their files.

    Attributes:
        train, val: (N, 2) int64: file and row of every sample.
        sha256: of the split; empty where it was not written down.
    """

    train: np.ndarray
    val: np.ndarray
    sha256: str = ""

    @classmethod
    def of(cls, split: Split) -> SampleIds:
        return cls(split.train.members, split.val.members, split.sha256)

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> SampleIds:
        """Those that ``dataset.json`` names under ``split``."""
        return cls(_members(written["train"]), _members(written["val"]), str(written["sha256"]))


def split_to_dict(split: Split, root: Path) -> dict[str, Any]:
    """A split as ``dataset.json`` keeps it.

    Args:
        split: of opened files.
        root: the run's folder.
    """
    first = split.train.files
    apart = split.val.files is not first
    files = [*first, *(split.val.files if apart else ())]
    listed = []
    for pair in files:
        entry: dict[str, Any] = {"samples": pair.samples, "gathers": pair.gathers}
        for kind, array in (("velocity", pair.velocity), ("seismic", pair.seismic)):
            entry[kind] = {"path": _kept(array.path, root), "content": content_of(array.path)} if array else None
        listed.append(entry)
    offset = len(first) if apart else 0
    sides = {"train": _ranges(split.train.members), "val": _ranges(split.val.members + np.array([offset, 0]))}
    identity = json.dumps([[entry["velocity"]["content"] for entry in listed], sides], sort_keys=True)
    return {
        "rule": split.rule,
        "files": listed,
        **sides,
        "sha256": hashlib.sha256(identity.encode()).hexdigest(),
    }


def split_from_dict(
    written: Mapping[str, Any], root: Path, need_seismic: bool, seismic_shape: tuple[int, ...]
) -> Split:
    """Open the files of a split that ``prepare`` wrote down.

    Args:
        written: what ``split_to_dict`` made.
        root: the run's folder.
        need_seismic: False promises that no seismic file is opened.
        seismic_shape: of one sample.

    Raises:
        DataError: a file is gone, or no longer what ``prepare`` read.
    """
    files = []
    for entry in written["files"]:
        maps = _opened(entry, "velocity", root, None)
        gathers = _opened(entry, "seismic", root, seismic_shape) if need_seismic and entry["seismic"] else None
        parsed = parse_name(maps.path.name)
        files.append(FilePair(maps, gathers, parsed[1] if parsed else None, _samples(entry, "seismic")))
    ids = SampleIds.from_dict(written)
    train, val = (Pairs(tuple(files), members) for members in (ids.train, ids.val))
    return Split(train, val, str(written["rule"]), ids.sha256)


def _opened(entry: Mapping[str, Any], kind: Any, root: Path, shape: tuple[int, ...] | None) -> ArrayFile:
    path = root / entry[kind]["path"]
    array = open_array(path, kind, shape)
    if array.samples != _samples(entry, kind) or content_of(path) != entry[kind]["content"]:
        raise DataError(
            _("{path} is not the file that the stage prepare read").format(path=path),
            _("put it back, or read the data again: {command}").format(
                command=shlex.join(["ubq", "run", "--config", str(root / "config.toml"), "--force", "prepare"])
            ),
        )
    return array


def _samples(entry: Mapping[str, Any], kind: Any) -> int:
    """Samples of one file; older runs do not say how many gathers there are: as many as maps."""
    if kind == "velocity":
        return int(entry["samples"])
    return int(entry.get("gathers", entry["samples"])) if entry["seismic"] else 0


def _kept(path: Path, root: Path) -> str:
    path, root = path.resolve(), root.resolve()
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _ranges(members: np.ndarray) -> list[list[int]]:
    """(N, 2) -> [file, first row, row after the last] of each run of rows."""
    breaks = np.flatnonzero((np.diff(members[:, 0]) != 0) | (np.diff(members[:, 1]) != 1)) + 1
    starts, ends = [0, *breaks.tolist()], [*breaks.tolist(), len(members)]
    return [
        [int(members[a, 0]), int(members[a, 1]), int(members[b - 1, 1]) + 1]
        for a, b in zip(starts, ends, strict=True)
        if b > a
    ]


def _members(ranges: list[list[int]]) -> np.ndarray:
    parts = [np.stack([np.full(stop - first, file), np.arange(first, stop)], axis=1) for file, first, stop in ranges]
    return np.concatenate(parts).astype(np.int64) if parts else np.empty((0, 2), np.int64)
