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
    wanted = sample_shape or SHAPES[kind]
    shape_text = "(N, " + ", ".join(map(str, wanted)) + ")"
    try:
        with open(path, "rb") as stream:
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
    if dtype.hasobject:
        raise DataError(
            _("{path} holds Python objects, which ubq never loads").format(path=path),
            _("save it with numpy.save(path, array.astype(numpy.float32))"),
        )
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise DataError(
            _("{path} holds {dtype}, not float32").format(path=path, dtype=dtype),
            _("save it with numpy.save(path, array.astype(numpy.float32))"),
        )
    if len(shape) != len(wanted) + 1 or shape[1:] != wanted:
        raise DataError(
            _("{path} has shape {shape}, but {kind} files have {wanted}").format(
                path=path, shape=shape, kind=_kind_text(kind), wanted=shape_text
            ),
            _("reshape it, or name the right folder"),
        )
    if shape[0] < 1:
        raise DataError(_("{path} has no samples").format(path=path), _("remove it"))
    if fortran_order:
        raise DataError(
            _("{path} is stored in Fortran order").format(path=path),
            _("save it with numpy.save(path, numpy.ascontiguousarray(array))"),
        )
    array = ArrayFile(path, shape[0], wanted, dtype.str, offset)
    if size < offset + shape[0] * array.sample_bytes:
        raise _truncated(path)
    return array


def _kind_text(kind: Kind) -> str:
    return _("velocity") if kind == "velocity" else _("seismic")
