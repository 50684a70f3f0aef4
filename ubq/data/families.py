"""The ten two-dimensional OpenFWI data sets: file names, official split, ranges.

Deng et al. 2022, "OpenFWI: Large-scale Multi-structural Benchmark Datasets for Full Waveform Inversion".
Imports neither numpy nor torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from ubq.config.schema import MAP_SHAPE, Family

Kind = Literal["seismic", "velocity"]
Convention = Literal["numbered", "fault"]
"""numbered: ``dataN.npy`` and ``modelN.npy``. fault: ``seisA_1_N.npy`` and ``velA_1_N.npy``."""

VELOCITY_SHAPE = MAP_SHAPE
"""One velocity map: channel, depth, offset; m/s, 10 m a cell."""
SEISMIC_SHAPE = (5, 1000, 70)
"""The shot gathers of one map: source, time (1 ms), receiver."""
SAMPLES_PER_FILE = 500
VELOCITY_RANGE = (1500.0, 4500.0)
"""Range of all ten sets, m/s."""

_STEMS: dict[Convention, dict[Kind, str]] = {
    "numbered": {"seismic": "data", "velocity": "model"},
    "fault": {"seismic": "seis", "velocity": "vel"},
}
_FOLDERS: dict[Convention, dict[Kind, str]] = {
    "numbered": {"seismic": "data", "velocity": "model"},
    "fault": {"seismic": "", "velocity": ""},
}
_NAME = re.compile(r"(?P<stem>data|model)(?P<id>\d{1,9})\.npy|(?P<fstem>seis|vel)(?P<fid>\d{1,9}_\d{1,9}_\d{1,9})\.npy")


@dataclass(frozen=True, order=True)
class FileId:
    """What a file and its partner have in common: the numbers in their names."""

    convention: Convention
    numbers: tuple[int, ...]

    def name(self, kind: Kind) -> str:
        """File name of one kind: ``FileId("fault", (2, 1, 0)).name("seismic") == "seis2_1_0.npy"``."""
        return f"{_STEMS[self.convention][kind]}{'_'.join(map(str, self.numbers))}.npy"

    def relative_path(self, kind: Kind) -> str:
        """Where OpenFWI keeps the file inside its data set: ``data/data1.npy``, ``seis2_1_0.npy``."""
        folder = _FOLDERS[self.convention][kind]
        return f"{folder}/{self.name(kind)}" if folder else self.name(kind)


def parse_name(name: str) -> tuple[Kind, FileId] | None:
    """What an OpenFWI file name says, or None for any other name."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    convention: Convention = "numbered" if match["stem"] else "fault"
    stem = match["stem"] or match["fstem"]
    numbers = tuple(int(n) for n in (match["id"] or match["fid"]).split("_"))
    kind: Kind = "seismic" if stem == _STEMS[convention]["seismic"] else "velocity"
    return kind, FileId(convention, numbers)


@dataclass(frozen=True)
class FamilyFacts:
    """One data set. ``groups`` are the first numbers of a fault set's file names."""

    name: Family
    convention: Convention
    groups: tuple[int, ...]
    train_numbers: range
    val_numbers: range
    amplitude: tuple[float, float]
    fork_ranges: tuple[float, float, float, float] | None
    """The upstream fork's amplitude and velocity ranges: wrong, but its checkpoints need them."""

    def owns(self, file: FileId) -> bool:
        """Whether a file of this name can belong to the set."""
        if file.convention != self.convention:
            return False
        if self.convention == "fault" and (file.numbers[0] not in self.groups or file.numbers[1] != 1):
            return False
        return file.numbers[-1] in self.train_numbers or file.numbers[-1] in self.val_numbers

    def held_out(self, file: FileId) -> bool:
        """Whether the official split puts the file on the validation side."""
        return file.numbers[-1] in self.val_numbers

    def file_ids(self, side: Literal["train", "val"]) -> list[FileId]:
        """All files of one side of the official split, in order."""
        numbers = self.train_numbers if side == "train" else self.val_numbers
        if self.convention == "numbered":
            return [FileId("numbered", (n,)) for n in numbers]
        return [FileId("fault", (group, 1, n)) for group in self.groups for n in numbers]


def _vel(
    name: Family, amplitude: tuple[float, float], fork: tuple[float, float, float, float] | None = None
) -> FamilyFacts:
    return FamilyFacts(name, "numbered", (), range(1, 49), range(49, 61), amplitude, fork)


def _fault(
    name: Family, groups: tuple[int, ...], amplitude: tuple[float, float], fork: tuple[float, float, float, float]
) -> FamilyFacts:
    return FamilyFacts(name, "fault", groups, range(32), range(32, 36), amplitude, fork)


def _style(name: Family, amplitude: tuple[float, float]) -> FamilyFacts:
    return FamilyFacts(name, "numbered", (), range(1, 121), range(121, 135), amplitude, None)


FAMILIES: dict[Family, FamilyFacts] = {
    facts.name: facts
    for facts in (
        _vel("flatvel-a", (-26.95, 52.77), (0.0, 10.0, 1500.0, 4500.0)),
        _vel("flatvel-b", (-27.17, 56.05), (0.0, 8.0, 1500.0, 4000.0)),
        _vel("curvevel-a", (-27.11, 55.10)),
        _vel("curvevel-b", (-29.04, 57.03)),
        _fault("flatfault-a", (2, 3, 4), (-26.10, 50.86), (0.0, 11.0, 1700.0, 4800.0)),
        _fault("flatfault-b", (6, 7, 8), (-24.86, 50.28), (0.0, 9.0, 1500.0, 4200.0)),
        _fault("curvefault-a", (2, 3, 4), (-26.48, 52.32), (0.0, 12.0, 1800.0, 5000.0)),
        _fault("curvefault-b", (6, 7, 8), (-24.93, 50.98), (0.0, 10.0, 1600.0, 4500.0)),
        _style("style-a", (-24.96, 48.93)),
        _style("style-b", (-23.76, 46.01)),
    )
}
assert set(FAMILIES) == set(get_args(Family))


def recognise(files: Iterable[FileId], folder_names: Iterable[str] = ()) -> tuple[Family, ...]:
    """Families that files of these names can belong to.

    File names alone leave two or more (FlatFault-A and CurveFault-A share theirs); a folder named after
    a set (``CurveFault_A``, ``curvefault-a``) settles it.
    """
    files = tuple(files)
    possible = tuple(name for name, facts in FAMILIES.items() if files and all(facts.owns(f) for f in files))
    spelled = {name.lower().replace("_", "-") for name in folder_names}
    named = tuple(name for name in possible if name in spelled)
    return named or possible
