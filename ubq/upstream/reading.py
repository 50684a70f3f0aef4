"""Reading other people's checkpoint files without running anything that they hold.

PyTorch's restricted unpickler (``weights_only``) refuses every class that it does not know. Training files hold
some that are harmless (parsed arguments, paths, a best score); here each of them has a stand-in that takes what the
file says and does nothing, so that not even their own code runs. Any other class is refused by name.
"""

from __future__ import annotations

import pickle
import re
import shlex
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ubq.errors import CheckpointError
from ubq.i18n import gettext as _

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_PROTOCOL = 2
"""Of pickle: what ``torch.save`` writes unless told otherwise, and all that the restricted unpickler reads."""
_MOST_STORED = 1.01
"""Sizes of a zip archive's records over that of the file; more, and a few bytes promise many."""

_MOST_TRIED = 8
"""Foreign classes, the last ones met, for which another stand-in is tried."""

_LFS_POINTER = _("a Git LFS pointer, not the file it points to")
_OTHER_FORMATS = (
    (b"\x93NUMPY", _("a NumPy array")),
    (b"\x89HDF", _("an HDF5 file")),
    (b"\x1f\x8b", _("a gzip archive")),
    (b"7z\xbc\xaf", _("a 7z archive")),
    (b"Rar!", _("a rar archive")),
    (b"version https://git-lfs", _LFS_POINTER),
    (b"<!doctype html", _("a web page")),
    (b"<html", _("a web page")),
)


class _Nothing:
    """Stand-in of an object: takes any arguments and any state, keeps none."""

    def __init__(self, *_args: object, **_named: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


class _Array(_Nothing):
    """Stand-in of a NumPy array."""


class _Mapping:
    """Stand-in of a dictionary or of an object with attributes."""

    def __new__(cls, *_args: object, **_named: object) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


class _List:
    """Stand-in of a list."""

    def __new__(cls, *_args: object, **_named: object) -> list[Any]:  # type: ignore[misc]
        return []


class _Dtype:
    """Stand-in of ``numpy.dtype``: its code, as ``f8``."""

    def __init__(self, code: object = "", *_flags: object) -> None:
        self.code = code if isinstance(code, str) else ""

    def __setstate__(self, state: object) -> None: ...


def _number(dtype: object = None, raw: object = None) -> int | float | bool | None:
    """Stand-in of a NumPy scalar: the plain number, None for what is none."""
    if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes) or not re.fullmatch("[fiu][1248]|b1", dtype.code):
        return None
    try:
        value: int | float | bool = np.frombuffer(raw, "<" + dtype.code)[0].item()
    except (TypeError, ValueError, IndexError):
        return None
    return value


_HARMLESS: dict[str, Any] = {
    **dict.fromkeys(
        (
            "numpy._core.multiarray._reconstruct",
            "numpy.core.multiarray._reconstruct",
            "numpy._core.numeric._frombuffer",
            "numpy.core.numeric._frombuffer",
            "numpy.ndarray",
        ),
        _Array,
    ),
    **dict.fromkeys(
        (
            "argparse.Namespace",
            "builtins.frozenset",
            "builtins.object",
            "builtins.range",
            "builtins.slice",
            "datetime.date",
            "datetime.datetime",
            "datetime.time",
            "datetime.timedelta",
            "datetime.timezone",
            "decimal.Decimal",
            "fractions.Fraction",
            *(f"numpy.random._pickle.__{kind}_ctor" for kind in ("bit_generator", "generator", "randomstate")),
            "numpy.random._mt19937.MT19937",
            "numpy.random._pcg64.PCG64",
            "numpy.random.bit_generator.SeedSequence",
            "numpy.random.bit_generator.__pyx_unpickle_SeedSequence",
            "omegaconf.base.ContainerMetadata",
            "omegaconf.base.Metadata",
            "omegaconf.base.SCMode",
            "omegaconf.base.UnionNode",
            *(
                f"omegaconf.nodes.{kind}Node"
                for kind in (
                    "Any",
                    "Boolean",
                    "Bytes",
                    "Enum",
                    "Float",
                    "Integer",
                    "InterpolationResult",
                    "Path",
                    "String",
                    "Value",
                )
            ),
            *(
                f"{module}.{flavour}Path"
                for module in ("pathlib", "pathlib._local")
                for flavour in ("", "Posix", "Windows", "Pure", "PurePosix", "PureWindows")
            ),
            "torch.torch_version.TorchVersion",
            "types.SimpleNamespace",
            "typing.Any",
            "uuid.UUID",
        ),
        _Nothing,
    ),
    **dict.fromkeys(
        (
            "addict.addict.Dict",
            "box.box.Box",
            "box.config_box.ConfigBox",
            "builtins.dict",
            "collections.UserDict",
            "collections.defaultdict",
            "easydict.EasyDict",
            "fvcore.common.config.CfgNode",
            "lightning.fabric.utilities.data.AttributeDict",
            "lightning_fabric.utilities.data.AttributeDict",
            "lightning.pytorch.utilities.parsing.AttributeDict",
            "pytorch_lightning.utilities.parsing.AttributeDict",
            "ml_collections.config_dict.config_dict.ConfigDict",
            "ml_collections.config_dict.config_dict.FrozenConfigDict",
            "munch.Munch",
            "omegaconf.dictconfig.DictConfig",
            "yacs.config.CfgNode",
        ),
        _Mapping,
    ),
    **dict.fromkeys(("builtins.list", "collections.deque", "omegaconf.listconfig.ListConfig"), _List),
    # the types themselves, which a configuration names and a defaultdict makes
    **{f"builtins.{kind.__name__}": kind for kind in (int, float, str, bool, bytes, tuple)},
    "numpy.dtype": _Dtype,
    **{f"numpy.dtypes.{kind}DType": _Dtype for kind in ("Bool", "Float16", "Float32", "Float64", "Int32", "Int64")},
    "numpy.core.multiarray.scalar": _number,
    "numpy._core.multiarray.scalar": _number,
}
"""Classes by the names that pickles have for them, and what stands in for each."""


def load(path: Path) -> Any:
    """What a checkpoint file holds: tensors, plain values and containers of them, mapped where the format allows.

    Raises:
        CheckpointError: not a file, damaged, no checkpoint, or one that holds other classes than harmless ones.
    """
    return _load(path, _HARMLESS)


def load_weights(path: Path) -> Any:
    """As ``load``, with every class that is not known replaced by what takes the file's words of it and runs nothing.

    Only the file's own instructions tell what such a class was: a dictionary of its attributes, which keeps those of
    a pickled module, else anything that takes a state of its own kind, else a list.
    """
    known = dict(_HARMLESS)
    foreign: list[str] = []
    for _attempt in range(1000):
        try:
            return _load(path, known)
        except ForeignClassError as error:
            if error.blocked:
                raise
            foreign.append(error.name)
            known[error.name] = _Mapping
        except CheckpointError:
            if not (better := _other_stand_in(path, known, foreign)):
                raise
            known = better
    raise damaged(path)


def _other_stand_in(path: Path, known: Mapping[str, Any], foreign: list[str]) -> dict[str, Any] | None:
    """Stand-ins with which more of a file can be read, where another one for a foreign class does that."""
    for name in reversed(foreign[-_MOST_TRIED:]):
        for stand_in in (_Nothing, _List):
            if known[name] is stand_in:
                continue
            tried = {**known, name: stand_in}
            try:
                _load(path, tried)
            except ForeignClassError:  # it came further
                return tried
            except CheckpointError:
                continue
            return tried
    return None


def weights_command(path: Path) -> str:
    """The command that keeps the tensors of a file."""
    bare = path.with_name(f"{path.stem}-weights.pt")
    return shlex.join(["ubq", "checkpoint", "weights", str(path), "--output", str(bare)])


def is_array(value: object) -> bool:
    """Whether what was read stands for a NumPy array."""
    return isinstance(value, _Array)


def kind_of(value: object) -> str:
    """What a value from a file is, as a person knows it."""
    if is_array(value):
        return _("a NumPy array")
    if value is None:
        return "None"
    if isinstance(value, _Nothing):
        return _("an object")
    return _("a value of type {kind}").format(kind=type(value).__name__)


def arrays_not_tensors(path: Path, message: str) -> CheckpointError:
    """The error for weights that are NumPy arrays, with the command that makes tensors of them."""
    again = path.with_name(f"{path.stem}-tensors.pt")
    code = (
        "import numpy, torch; "
        "tensors = lambda v: torch.as_tensor(v) if isinstance(v, numpy.ndarray) else "
        "{n: tensors(x) for n, x in v.items()} if isinstance(v, dict) else v; "
        f"torch.save(tensors(torch.load({str(path)!r}, 'cpu', weights_only=False)), {str(again)!r})"
    )
    return CheckpointError(
        message, _("if you trust it, write it again: {command}").format(command=shlex.join(["python", "-c", code]))
    )


class ForeignClassError(CheckpointError):
    """A file holds a class that is not known to be harmless."""

    def __init__(self, path: Path, name: str, blocked: bool) -> None:
        self.name = name
        self.blocked = blocked
        super().__init__(
            _("{path} holds code or objects beside weights ({name}), which ubq refuses to run").format(
                path=path, name=readable(name)
            ),
            _("keep its weights alone, which runs nothing of it: {command}").format(command=weights_command(path))
            if not blocked
            else _("only programs that do harm put that into a checkpoint: do not open it"),
        )


def damaged(path: Path) -> CheckpointError:
    """The error for a file that ends too early or holds nonsense."""
    return CheckpointError(
        _("{path} is truncated, damaged or not a PyTorch checkpoint").format(path=path),
        _("copy or download it again"),
    )


def readable(name: object) -> str:
    """A name from a file, short and without control characters."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in str(name)[:200])
    return text[:117] + "..." if len(text) > 120 else text


def _load(path: Path, known: Mapping[str, Any]) -> Any:
    try:
        if not path.is_file() and path.exists():
            raise CheckpointError(_("{path} cannot be read: {reason}").format(path=path, reason=_("not a file")))
        with path.open("rb") as file:
            head = file.read(24)
    except OSError as error:
        raise CheckpointError(
            _("{path} cannot be read: {reason}").format(path=path, reason=error.strerror or error)
        ) from None
    if head.startswith(_ZIP):
        _check_archive(path)
    elif _is_safetensors(head):
        return _safetensors(path)
    elif not head.startswith(_PICKLE):
        raise _not_a_checkpoint(path, head)
    try:
        # torch warns about pickle protocols it then refuses
        with torch.serialization.safe_globals([(v, k) for k, v in known.items()]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=head.startswith(_ZIP))
    except pickle.UnpicklingError as error:
        if match := re.search(r"GLOBAL (.+?) (was not|whose module)", str(error), re.DOTALL):
            name = match[1] if "." in match[1] else f"builtins.{match[1]}"
            raise ForeignClassError(path, name, match[2] == "whose module") from None
        if (head[:1] == _PICKLE and head[1] > _PROTOCOL) or "Unsupported operand" in str(error):
            raise _other_protocol(path) from None
        raise damaged(path) from None
    # a damaged file fails in any way that a pickle or a zip archive can
    except Exception:
        raise damaged(path) from None


def _other_protocol(path: Path) -> CheckpointError:
    again = path.with_name(f"{path.stem}-again.pt")
    code = f"import torch; torch.save(torch.load({str(path)!r}, 'cpu', weights_only=False), {str(again)!r})"
    return CheckpointError(
        _("{path} is damaged, or written with another pickle protocol than PyTorch's own").format(path=path),
        _("if you trust it, write it again: {command}").format(command=shlex.join(["python", "-c", code])),
    )


def _not_a_checkpoint(path: Path, head: bytes) -> CheckpointError:
    if not head:
        return CheckpointError(_("{path} is an empty file").format(path=path), _("copy or download it again"))
    kind = next((kind for magic, kind in _OTHER_FORMATS if head.lower().startswith(magic.lower())), "")
    message = _("{path} is not a PyTorch checkpoint").format(path=path)
    if not kind:
        return CheckpointError(message)
    fix = _("fetch the file itself: git lfs pull") if kind == _LFS_POINTER else ""
    return CheckpointError(_("{message} but {kind}").format(message=message, kind=kind), fix)


def _check_archive(path: Path) -> None:
    """Refuse an archive that is no checkpoint, or that holds other bytes than it says.

    Raises:
        CheckpointError: which of them.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            size = path.stat().st_size
    # what a damaged directory of an archive leads to
    except Exception:
        raise damaged(path) from None
    names = [record.filename for record in records]
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(
            _("{path} is a TorchScript file, not a checkpoint").format(path=path),
            _("give the training checkpoint that it was exported from"),
        )
    if any(name.endswith(".npy") for name in names) and not any(name.endswith("data.pkl") for name in names):
        raise CheckpointError(_("{path} is an archive of NumPy arrays (.npz), not a checkpoint").format(path=path))
    if not any(name.endswith("data.pkl") for name in names):
        raise CheckpointError(_("{path} is a zip archive, but not a PyTorch checkpoint").format(path=path))
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise CheckpointError(
            _("{path} was packed again by another program: PyTorch compresses nothing").format(path=path),
            _("copy or download it again, without unpacking it"),
        )
    if sum(record.file_size for record in records) > _MOST_STORED * size:
        raise damaged(path)


def _is_safetensors(head: bytes) -> bool:
    """The length of a JSON header, and its brace."""
    return len(head) > 8 and head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= 100_000_000


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError):
        raise CheckpointError(
            _("{path} is truncated, damaged or not a safetensors file").format(path=path),
            _("copy or download it again"),
        ) from None
