"""What an exported TorchScript file says of itself, read from its archive without torch or numpy."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ubq.acquisition import Acquisition
from ubq.errors import UsageError
from ubq.i18n import gettext as _

FORMAT_VERSION = 1
FACTS = "ubq.json"
"""Extra file inside a TorchScript archive, and metadata entry of an ONNX graph, that holds the facts as JSON."""


@dataclass(frozen=True)
class Facts:
    """What a user of an exported file may want to know; also kept inside the file itself.

    Args:
        name: of the exported files, without suffix.
        family: OpenFWI data set that the model imitates.
        quantised: False for a float reference.
        backend: integer engine it was made and judged for.
        solver: sampler inside the file.
        steps: its default sampling steps.
        step_counts: every step count that the file offers.
        model: sizes, as in ``[model]``.
        normalization: amplitude and velocity ranges.
        velocity_shape: of one map.
        seismic_shape: of one map's gathers.
        versions: of ubq and torch that wrote it.
        acquisition: of the gathers that the file models (``ubq.acquisition.Acquisition``): by the constant-density
            acoustic wave equation, where the decoder's are a network's. None: it cannot model any.
        distilled: the U-Net has learnt to sample in exactly ``steps`` steps.
    """

    name: str
    family: str
    quantised: bool
    backend: str
    solver: str
    steps: int
    step_counts: tuple[int, ...]
    model: Mapping[str, Any]
    normalization: Mapping[str, float]
    velocity_shape: tuple[int, ...]
    seismic_shape: tuple[int, ...]
    versions: Mapping[str, str]
    acquisition: Mapping[str, Any] | None = None
    distilled: bool = False

    def to_json(self) -> dict[str, Any]:
        """The facts as a JSON object."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Facts:
        """Facts as read from JSON; raises a KeyError for one that is missing."""
        return cls(
            **{f.name: values[f.name] if f.default is MISSING else values.get(f.name, f.default) for f in fields(cls)}
        )


_KINDS: Mapping[str, type] = {
    "name": str, "family": str, "quantised": bool, "backend": str, "solver": str, "steps": int, "step_counts": list,
    "model": dict, "normalization": dict, "velocity_shape": list, "seismic_shape": list, "versions": dict,
}  # fmt: skip


_RANGES = ("amplitude_min", "amplitude_max", "velocity_min", "velocity_max")
_LONGEST_NAME = 200
"""Bytes; file systems take 255, and suffixes follow."""


def check_facts(facts: Mapping[str, Any]) -> None:
    """Refuse values of other types than ``Facts.to_json`` has, where there are any, and a name that is no file's.

    Raises:
        ValueError, TypeError, KeyError: there is one.
    """
    odd = [key for key, kind in _KINDS.items() if key in facts and not isinstance(facts[key], kind)]
    odd += [key for key, text in facts.items() if isinstance(text, str) and not text.isprintable()]
    if not isinstance(facts.get("acquisition"), Mapping | None):
        odd.append("acquisition")
    if odd or not is_file_name(facts["name"]):
        raise ValueError(odd)
    if (acquisition := facts.get("acquisition")) is not None:
        Acquisition(**acquisition)  # a TypeError for other keys
        values = [*acquisition["sources"], *(value for key, value in acquisition.items() if key != "sources")]
        if not all(type(n) in (int, float) and n >= 0 for n in values):
            raise TypeError("not a number")
    numbers = [n for key in ("step_counts", "velocity_shape", "seismic_shape") for n in facts.get(key, ())]
    ranges = [facts["normalization"][key] for key in _RANGES] if "normalization" in facts else []
    if not all(type(n) is int for n in numbers) or not all(type(n) in (int, float) for n in ranges):
        raise TypeError("not a number")


def is_file_name(name: object) -> bool:
    """Whether a name stays in the folder it is used in, as the name of one file."""
    if not isinstance(name, str) or not name.isprintable() or name in ("", ".", "..") or set(name) & set("/\\"):
        return False
    return len(name.encode()) <= _LONGEST_NAME


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive: one that holds code. False for what is no whole archive too."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def read_facts(path: Path) -> dict[str, Any]:
    """The facts that an exported TorchScript file carries (``Facts.to_json``); the weights are not read.

    Raises:
        UsageError: not a file that ubq exported.
    """
    if not path.is_file():
        raise UsageError(_("{path} does not exist").format(path=path), _("give the .pt of exported_models"))
    try:
        with zipfile.ZipFile(path) as archive:
            (entry,) = [name for name in archive.namelist() if name.endswith(f"/extra/{FACTS}")]
            facts = json.loads(archive.read(entry))
        Facts.from_json(facts)
        check_facts(facts)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, zipfile.BadZipFile) as error:
        raise UsageError(
            _("{path} is not a model that ubq exported").format(path=path), _("give the .pt of exported_models")
        ) from error
    return facts
