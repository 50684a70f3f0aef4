"""Writing generated pairs into files laid out as OpenFWI's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ubq.config.schema import Family
from ubq.data.families import FAMILIES, SAMPLES_PER_FILE, FileId, Kind
from ubq.data.shard import WHOLE, Shard
from ubq.errors import UsageError
from ubq.i18n import gettext as _
from ubq.runtime.generator import Gathers, LoadedModel


def file_ids(family: Family, count: int) -> list[FileId]:
    """Names for ``count`` pairs, 500 in a file: the first ones of the family's training files.

    Raises:
        UsageError: more pairs than the family has training files for.
    """
    ids = FAMILIES[family].file_ids("train")
    needed = -(-count // SAMPLES_PER_FILE)
    if needed > len(ids):
        raise UsageError(
            _("{family} has file names for {most} pairs, not {count}").format(
                family=family, most=len(ids) * SAMPLES_PER_FILE, count=count
            ),
            _("lower --count, or call ubq sample again with another --seed and --out"),
        )
    return ids[:needed]


def write_pairs(
    model: LoadedModel,
    out: Path,
    count: int,
    steps: int = 0,
    seed: int = 0,
    batch: int = 1,
    gathers: Gathers = "wave",
    progress: Callable[[int, int], None] = lambda done, total: None,
    shard: Shard = WHOLE,
    keep: bool = False,
    begin: Callable[[], None] = lambda: None,
) -> list[Path]:
    """Write pairs 0 to ``count`` of a seed; a file appears only once it is complete.

    Args:
        model: draws them.
        out: folder, made when missing.
        count: pairs.
        steps, seed, batch, gathers: as ``LoadedModel.draw``.
        progress: called with (done, total).
        shard: the part of the files to write; the others may be written at the same time.
        keep: files that are there stay as they are.
        begin: called once no file is in the way.

    Returns:
        The files of this part, velocity and seismic of each 500 pairs in turn.

    Raises:
        UsageError: a file of that name exists.
    """
    shapes: dict[Kind, tuple[int, ...]] = {
        "velocity": tuple(model.facts["velocity_shape"]),
        "seismic": tuple(model.facts["seismic_shape"]),
    }
    ids = file_ids(model.facts["family"], count)
    starts = range(0, count, SAMPLES_PER_FILE)
    work = [
        (range(first, min(first + SAMPLES_PER_FILE, count)), {kind: out / i.relative_path(kind) for kind in shapes})
        for first, i in shard.of(list(zip(starts, ids, strict=True)))
    ]
    written = [path for _pairs, target in work for path in target.values()]
    for path in written:
        if path.exists() and not keep:
            raise UsageError(_("{path} exists").format(path=path), _("give another --out, or remove it"))
    begin()
    done, total = 0, sum(len(pairs) for pairs, _target in work)
    for pairs, target in work:
        if all(path.exists() for path in target.values()):
            done += len(pairs)
            continue
        partial = {kind: path.with_name(f".{path.name}.part") for kind, path in target.items()}
        for path in partial.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            arrays = {
                kind: np.lib.format.open_memmap(partial[kind], "w+", np.float32, (len(pairs), *shape))
                for kind, shape in shapes.items()
            }
            for number, (velocity, seismic) in enumerate(model.draw(pairs, steps, seed, batch, gathers)):
                arrays["velocity"][number], arrays["seismic"][number] = velocity[0], seismic[0]
                done += 1
                progress(done, total)
            for kind, array in arrays.items():
                array.flush()
                os.replace(partial[kind], target[kind])
        finally:
            for path in partial.values():
                path.unlink(missing_ok=True)
    return written
