"""THE rule of which files of a location are data, and in what order.

The loader, ``prepare``'s validation and its fingerprint, the preflight, ``ubq doctor``, the wizard and ``ubq data
inspect`` all ask here. Light: names alone, no file is opened and neither numpy nor torch is imported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from ubq.config.runs import command
from ubq.data.families import FileId, Kind, parse_name
from ubq.errors import DataError
from ubq.i18n import gettext as _
from ubq.i18n import joined

if TYPE_CHECKING:
    from ubq.config.schema import Config, DataConfig, Family

PLACES = ("data.train_seismic", "data.train_velocity", "data.val_seismic", "data.val_velocity")
"""The keys that name data locations."""
_WANTED: dict[Kind, str] = {"velocity": "model1.npy, vel2_1_0.npy", "seismic": "data1.npy, seis2_1_0.npy"}
OPENFWI = "https://openfwi-lanl.github.io"
_SHOWN = 3
"""Names that a message lists."""


@dataclass(frozen=True)
class DataFile:
    """A file of one kind; ``id`` is None for a single file that is not named as OpenFWI names its files."""

    path: Path
    id: FileId | None


@dataclass(frozen=True)
class Matched:
    """A velocity file and, where there is one, the seismic file of the same samples."""

    velocity: DataFile
    seismic: DataFile | None

    @property
    def id(self) -> FileId | None:
        return self.velocity.id


def data_files(location: str | Path, kind: Kind) -> list[DataFile]:
    """Files of one kind in a location, in the order of their numbers.

    A location is a folder that holds them, or whose subfolders do; a single file; or a pattern (``maps/model*.npy``).
    In a folder the names alone decide (``ubq.data.families``): what else lies there counts for nothing.

    Raises:
        DataError: the location is missing or unreadable, holds none, or two of one name.
    """
    path = Path(location).expanduser()
    try:
        if path.is_file():
            parsed = parse_name(path.name)
            return [DataFile(path, parsed[1] if parsed and parsed[0] == kind else None)]
        candidates = _candidates(path, kind)
        if not candidates and (missing := missing_path(path)):
            raise missing
        path_of: dict[FileId, Path] = {}
        for candidate in candidates:
            id = _id_of(candidate, kind)
            if id is None:
                continue
            if id in path_of:
                raise DataError(
                    _("{first} and {second} have the same name").format(first=path_of[id], second=candidate),
                    _("name one folder, not the folder above both"),
                )
            path_of[id] = candidate
        if not path_of:
            raise _none_found(path, kind, candidates)
    except OSError as error:
        raise DataError(_("cannot read {path}: {why}").format(path=path, why=error.strerror or error)) from error
    return [DataFile(path_of[id], id) for id in sorted(path_of)]


def has_files(location: str | Path, kind: Kind) -> bool:
    """Whether a folder (or its subfolders) or a pattern has files of one kind."""
    path = Path(location).expanduser()
    return not path.is_file() and any(_id_of(p, kind) is not None for p in _candidates(path, kind))


def match_files(velocity: str | Path, seismic: str | Path) -> list[Matched]:
    """The velocity files of one location, each with its partner in the other.

    Either location may be empty, and is the other then.
    Maps without gathers are no fault: the autoencoder and the U-Net learn from maps alone. Gathers without a map are.

    Raises:
        DataError: as ``data_files``; no location is given, or a seismic file has no map.
    """
    velocity, seismic = str(velocity), str(seismic)
    if not velocity and not seismic:
        raise DataError(_("no data folder is given"), _("give data.train_velocity and data.train_seismic"))
    errors = [
        error
        for location in dict.fromkeys((velocity, seismic))
        if location and (error := missing_path(Path(location).expanduser()))
    ]
    if errors:
        fixes = dict.fromkeys(error.fix for error in errors)
        raise DataError(joined("; ", (error.message for error in errors)), joined(" ", fixes))
    maps = data_files(velocity or seismic, "velocity")
    if seismic in ("", velocity) and not has_files(velocity, "seismic"):
        return [Matched(file, None) for file in maps]
    gathers = data_files(seismic or velocity, "seismic")
    if len(maps) == 1 and len(gathers) == 1 and None in (maps[0].id, gathers[0].id):
        return [Matched(maps[0], gathers[0])]  # two single files belong together whatever their names are
    partners = {file.id: file for file in gathers if file.id is not None}
    ids = {file.id for file in maps}
    for file in gathers:
        if file.id is None or file.id not in ids:
            raise DataError(
                _("{path} has no partner {partner} in {folder}").format(
                    path=file.path,
                    partner=file.id.name("velocity") if file.id else _("(its name is not one of OpenFWI's)"),
                    folder=velocity or seismic,
                ),
                _("add the velocity maps, or remove the file"),
            )
    return [Matched(file, partners.get(file.id) if file.id else None) for file in maps]


def files_of(data: DataConfig) -> list[Path]:
    """Every file that a configuration's data consist of; a location that cannot be read stands for itself."""
    paths: list[Path] = []
    for velocity, seismic in ((data.train_velocity, data.train_seismic), (data.val_velocity, data.val_seismic)):
        if not (velocity or seismic):
            continue
        try:
            pairs = match_files(velocity, seismic)
        except DataError:
            paths += [Path(location).expanduser() for location in (velocity, seismic) if location]
        else:
            paths += [f.path for pair in pairs for f in (pair.velocity, pair.seismic) if f]
    return list(dict.fromkeys(path.resolve() for path in paths))


def _id_of(path: Path, kind: Kind) -> FileId | None:
    parsed = parse_name(path.name)
    return parsed[1] if parsed and parsed[0] == kind else None


def _is_pattern(path: Path) -> bool:
    return any(c in path.name for c in "*?[")


def _candidates(folder: Path, kind: Kind) -> list[Path]:
    """``.npy`` files of the folder itself or, where it has none of this kind, of its subfolders; a pattern's files."""
    if not folder.is_dir():
        return sorted(folder.parent.glob(folder.name)) if _is_pattern(folder) else []
    files = sorted(folder.glob("*.npy"))
    if any(_id_of(path, kind) is not None for path in files):
        return files
    return files + sorted(path for path in folder.glob("*/*.npy") if not path.parent.name.startswith("."))


def missing_path(path: Path) -> DataError | None:
    """What to say of a path that is not there: what may have been meant, else how far the path leads."""
    try:
        if path.exists() or _is_pattern(path):
            return None
        known = next(parent for parent in path.absolute().parents if parent.is_dir())
        entries = {entry.name.lower(): entry for entry in _visible(known)}
    except OSError:
        return None  # who reads it says what is wrong
    missing, *rest = path.absolute().relative_to(known).parts
    close = get_close_matches(missing.lower(), entries, n=1)
    if close:
        meant = entries[close[0]]
        meant = meant.joinpath(*rest) if meant.joinpath(*rest).exists() else meant
        fix = _("did you mean {close}?").format(close=meant)
    else:
        fix = _("check the path: it leads as far as {folder}").format(folder=known)
    return DataError(_("{path} does not exist").format(path=path), fix)


def _none_found(location: Path, kind: Kind, candidates: list[Path]) -> DataError:
    """What is there instead, and what to do about it."""
    name = _("velocity") if kind == "velocity" else _("seismic")
    if any(parse_name(path.name) for path in candidates):
        return DataError(
            _("{path} holds files of the other kind only ({names}), no {kind} file").format(
                path=location, names=_listed([p.name for p in candidates if parse_name(p.name)]), kind=name
            ),
            _("give the folder of the {kind} files too: --train-label for velocity, --train-data for seismic").format(
                kind=name
            ),
        )
    if candidates:
        return DataError(
            _("{path} holds {names}, not named as OpenFWI names its {kind} files ({wanted})").format(
                path=location, names=_listed([p.name for p in candidates]), kind=name, wanted=_WANTED[kind]
            ),
            _("rename them, or give one file itself: {path}").format(path=candidates[0]),
        )
    if not location.is_dir():
        return DataError(_("no file matches {path}").format(path=location), _("check the path"))
    others = Counter(p.suffix.lower() or p.name for p in _visible(location))
    if not others:
        return DataError(_("{path} is empty").format(path=location), _("check the path"))
    shown = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(_SHOWN))
    return DataError(
        _("{path} holds no .npy file, but {others}").format(path=location, others=shown),
        _("unpack archives; write arrays of another format with numpy.save, one array a file"),
    )


def _visible(folder: Path) -> Iterator[Path]:
    return (p for p in folder.iterdir() if not p.name.startswith("."))


def _listed(names: list[str]) -> str:
    more = "" if len(names) <= _SHOWN else ", …"
    return ", ".join(names[:_SHOWN]) + more


_HOMES = ("", "data", "OpenFWI", "openfwi", "data/OpenFWI", "train_samples", "waveform-inversion/train_samples")
"""Folders below the working folder that data sets are kept in; the last two as Kaggle names them."""
_KAGGLE = Path("/kaggle/input/waveform-inversion/train_samples")
_LAYOUTS = (("seismic_data", "velocity_map"), ("data", "model"), ("seismic", "velocity"), ("", ""))
"""Folders of gathers and of maps inside a data set's: this project's, OpenFWI's, and one folder with both."""


def find_data_set(family: Family, below: Path = Path()) -> tuple[Path, Path] | None:
    """Seismic and velocity folder of a data set where one usually lies; None: nowhere.

    Args:
        family: ``curvefault-a`` is looked for as ``CurveFault-A``, ``CurveFault_A``, ``curvefault-a`` ...
        below: folder to look in.
    """
    return next((places for places in _folders_of(family, below) if has_files(places[0], "seismic")), None)


def _folders_of(family: Family, below: Path) -> Iterator[tuple[Path, Path]]:
    """Where a data set's maps lie, and with them where its gathers belong: (seismic, velocity)."""
    folder_name = family.replace("-", "")
    for home in (*(below / name for name in _HOMES), _KAGGLE):
        try:
            folders = sorted(p for p in home.iterdir() if p.is_dir())
        except OSError:
            continue
        for folder in folders:
            if folder.name.lower().replace("-", "").replace("_", "") != folder_name:
                continue
            for seismic, velocity in _LAYOUTS:
                places = folder / seismic, folder / velocity
                if has_files(places[1], "velocity"):
                    yield places


def with_data_found(config: Config) -> Config:
    """The configuration, its data filled in where none are given, none are to be synthesised, and the set lies here."""
    if config.data.train_velocity or config.data.synth_samples:
        return config
    folders = find_data_set(config.data.family)
    if folders is None:
        return config
    places = {"train_seismic": str(folders[0].absolute()), "train_velocity": str(folders[1].absolute())}
    return config.model_copy(update={"data": config.data.model_copy(update=places)})


def forward_command(velocity: str | Path, seismic: str | Path) -> str:
    """The command that models the gathers of a place of maps into a folder."""
    return command("ubq", "data", "forward", "--velocity", str(velocity), "--out", str(seismic))


def no_data(config: Config) -> tuple[str, str]:
    """What is missing where no data are given and none are to be synthesised, and the ways on."""
    family = config.data.family
    if places := next(_folders_of(family, Path()), None):
        seismic, velocity = map(str, places)
        return (
            _("no data are given; {velocity} holds maps of {family}, but {seismic} no gathers").format(
                velocity=velocity, seismic=seismic, family=family
            ),
            _("model them: {command}").format(command=forward_command(velocity, seismic)),
        )
    folder = family.title().replace("fault", "Fault").replace("vel", "Vel")
    return (
        _("no data are given, and {family} is not in a folder here (./{folder}/seismic_data and velocity_map)").format(
            family=family, folder=folder
        ),
        _(
            "get it at {url}, or give --train-data DIR --train-label DIR, or answer ubq wizard, or train on synthetic"
            " maps: {option}"
        ).format(url=OPENFWI, option="--set data.synth_samples=1024"),
    )
