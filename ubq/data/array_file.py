"""One ``.npy`` file read a sample at a time.

Plain reads instead of a memory map: pages of a map count as resident memory until the kernel takes them
back, so a map's memory seems to grow with the data set; a read copies only the sample that is wanted.
"""

from __future__ import annotations

import tokenize
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ubq.data.families import SEISMIC_SHAPE, VELOCITY_SHAPE, Kind
from ubq.errors import DataError
from ubq.i18n import gettext as _

SHAPES: dict[Kind, tuple[int, ...]] = {"velocity": VELOCITY_SHAPE, "seismic": SEISMIC_SHAPE}
_BAD_HEADER = (ValueError, TypeError, KeyError, SyntaxError, EOFError, RecursionError, MemoryError, OverflowError)
_HEAD = 256
"""First bytes of a file, which tell its format."""
_FORMATS = (
    (b"PK\x03\x04", "zip (.npz, .pt)"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ", "xz"),
    (b"7z\xbc\xaf", "7z"),
    (b"Rar!", "rar"),
    (b"\x89HDF", "HDF5"),
    (b"MATLAB", "MATLAB (.mat)"),
    (b"\x80", "pickle"),
)


@dataclass(frozen=True)
class ArrayFile:
    """An array of samples on disk, (N, *sample_shape), whose header has been checked.

    Small and picklable: it holds no open file, so worker processes may use it.
    """

    path: Path
    samples: int
    sample_shape: tuple[int, ...]
    dtype: str
    offset: int

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample on disk."""
        return int(np.prod(self.sample_shape)) * np.dtype(self.dtype).itemsize

    def read_into(self, out: np.ndarray, rows: Sequence[int]) -> None:
        """Copy samples ``rows`` to ``out``, (len(rows), *sample_shape) float32 and contiguous.

        Raises:
            DataError: the file cannot be read or has become shorter.
        """
        direct = np.dtype(self.dtype) == np.float32 and np.dtype(self.dtype).isnative
        try:
            with open(self.path, "rb", buffering=0) as stream:
                for target, row in zip(out, rows, strict=True):
                    stream.seek(self.offset + row * self.sample_bytes)
                    buffer = target if direct else np.empty(self.sample_shape, self.dtype)
                    view, filled = buffer.data.cast("B"), 0
                    while filled < len(view):
                        count = stream.readinto(view[filled:])
                        if not count:
                            raise _truncated(self.path)
                        filled += count
                    if not direct:
                        target[...] = buffer
        except OSError as error:
            raise DataError(
                _("cannot read {path}: {why}").format(path=self.path, why=error.strerror or error)
            ) from error

    def read(self, rows: Sequence[int]) -> np.ndarray:
        """Samples ``rows``: (len(rows), *sample_shape) float32."""
        out = np.empty((len(rows), *self.sample_shape), np.float32)
        self.read_into(out, rows)
        return out


def _truncated(path: Path) -> DataError:
    return DataError(
        _("{path} is truncated: it ends before its last sample").format(path=path), _("copy or download it again")
    )


def open_array(path: Path, kind: Kind, sample_shape: tuple[int, ...] | None = None) -> ArrayFile:
    """Read and check the header of a ``.npy`` file; no sample is read and no pickle is ever loaded.

    Args:
        path: the file, an array of (N, *sample_shape).
        kind: what it should hold; decides the shape wanted when ``sample_shape`` is None.

    Raises:
        DataError: not a ``.npy`` file, truncated, wrong dtype or shape, no samples.
    """
    expected = sample_shape or SHAPES[kind]
    if path.exists() and not path.is_file():
        raise DataError(_("{path} is not a file").format(path=path), _("remove it, or give another folder"))
    try:
        with open(path, "rb") as stream:
            head = stream.read(_HEAD)
            if not head.startswith(np.lib.format.MAGIC_PREFIX):
                raise _other_format(path, head)
            stream.seek(0)
            version = np.lib.format.read_magic(stream)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"version {version}")
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, fortran_order, dtype = read_header(stream)
            offset = stream.tell()
            size = stream.seek(0, 2)
    except OSError as error:
        raise DataError(_("cannot read {path}: {why}").format(path=path, why=error.strerror or error)) from error
    except (*_BAD_HEADER, tokenize.TokenError) as error:
        raise DataError(
            _("{path} is not a readable .npy file: its header is damaged").format(path=path),
            _("write it with numpy.save"),
        ) from error
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise _not_numbers(path, dtype)
    if len(shape) != len(expected) + 1 or shape[1:] != expected:
        raise _other_shape(path, kind, shape, expected)
    if shape[0] < 1:
        raise DataError(_("{path} has no samples").format(path=path), _("remove it"))
    if fortran_order:
        raise DataError(
            _("{path} is stored in Fortran order").format(path=path),
            _("save it with numpy.save(path, numpy.ascontiguousarray(array))"),
        )
    array = ArrayFile(path, shape[0], expected, dtype.str, offset)
    if size < offset + shape[0] * array.sample_bytes:
        raise _truncated(path)
    return array


def _other_format(path: Path, head: bytes) -> DataError:
    """The error for a file that is no ``.npy`` file at all, by its first bytes."""
    again, convert = _("copy or download it again"), _("write its array with numpy.save")
    text = head.lstrip().lower()
    if not head:
        return DataError(_("{path} is empty").format(path=path), again)
    if not head.strip(b"\0"):
        return DataError(_("{path} begins with zeros: a copy or a download that was cut off").format(path=path), again)
    if text.startswith((b"version https://git-lfs", b"/annex/objects/")):
        return DataError(
            _("{path} is the pointer of a large file, not the file itself").format(path=path),
            _("fetch it, in its folder: {command}").format(
                command="git annex get ." if text.startswith(b"/annex") else "git lfs pull"
            ),
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return DataError(_("{path} is a web page, not data: the download was refused").format(path=path), again)
    for magic, format in _FORMATS:
        if head.startswith(magic):
            return DataError(_("{path} is not a .npy file but {format}").format(path=path, format=format), convert)
    lines = head.decode(errors="ignore").splitlines()
    if lines and lines[0].isprintable() and b"\0" not in head:
        return DataError(
            _("{path} is a text file ({line}), not a .npy file").format(path=path, line=lines[0][:40]),
            _("give the .npy files themselves: a folder, a file or a pattern"),
        )
    return DataError(_("{path} is not a .npy file").format(path=path), convert)


def _not_numbers(path: Path, dtype: np.dtype) -> DataError:
    fix = _("save it with numpy.save(path, array.astype(numpy.float32))")
    if dtype.hasobject:
        text = _("{path} holds Python objects (a list of arrays, or a dictionary), which ubq never loads")
        return DataError(text.format(path=path), _("save the one array of numbers in it, as float32"))
    if dtype.kind in "US":
        text = _("{path} holds text, such as a list of names, not samples")
        return DataError(text.format(path=path), _("give the files of the samples themselves"))
    return DataError(_("{path} holds {dtype}, not float32").format(path=path, dtype=dtype), fix)


def _other_shape(path: Path, kind: Kind, shape: tuple[int, ...], expected: tuple[int, ...]) -> DataError:
    other = next((k for k, s in SHAPES.items() if k != kind and shape[1:] == s), None)
    if other:
        return DataError(
            _("{path} holds {other} samples {shape}, where {kind} ones are wanted").format(
                path=path, other=_kind_text(other), shape=shape, kind=_kind_text(kind)
            ),
            _("velocity maps are given as --train-label (data.train_velocity), gathers as --train-data"),
        )
    fix = _("reshape it, or name the right folder")
    if shape[1:] == expected[1:] or shape == expected:
        fix = _("save it with its missing axis: array[{axes}]").format(
            axes=":, None" if shape[1:] == expected[1:] else "None"
        )
    return DataError(
        _("{path} has shape {shape}, but {kind} files have {wanted}").format(
            path=path, shape=shape, kind=_kind_text(kind), wanted="(N, " + ", ".join(map(str, expected)) + ")"
        ),
        fix,
    )


def _kind_text(kind: Kind) -> str:
    return _("velocity") if kind == "velocity" else _("seismic")
