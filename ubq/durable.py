"""File writes that survive a crash, and line files whose last line may be torn.

Everything that a run keeps on disk goes through here: a whole file is replaced in one step, a line
file only ever gets whole lines. Standard library only, since the status command reads through it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. File systems that cannot sync a folder are left alone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    except OSError:  # Windows opens no folders
        return
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte, also when the kernel takes only a part at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file in one durable step: a reader, and a restart after a crash, sees the old or the new one.

    Raises:
        OSError: the file cannot be written; the old one is untouched and no temporary file is left.
    """
    name = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)  # less the umask
    try:
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """For libraries that write files themselves: what the block writes to the path given replaces ``path`` in one step.

    The folder is made when missing. If the block fails, the old file is untouched and no temporary one is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


class HashingFile:
    """A binary file that hashes what passes, and keeps the error that a library's writer may hide."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.bytes = 0
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(data)
        self.bytes += memoryview(data).nbytes
        return memoryview(data).nbytes

    def flush(self) -> None:
        self._file.flush()

    @contextlib.contextmanager
    def written(self) -> Iterator[None]:
        """Let a library write in the block; a full disk comes out of it as what it is. Durable after it."""
        try:
            yield
        except Exception:
            if self.error is not None:
                raise self.error from None
            raise
        self.flush()
        os.fsync(self._file.fileno())


@contextlib.contextmanager
def verified(path: Path) -> Iterator[HashingFile]:
    """As :func:`replacing`, for a file that makes others dispensable: it is read back before it replaces ``path``.

    Raises:
        OSError: the file cannot be written, or the disk gives back something else; the old file is untouched.
    """
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            hashing = HashingFile(file)
            with hashing.written():
                yield hashing
            if hasattr(os, "posix_fadvise"):  # so that the disk is read, and not the cache
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with temporary.open("rb") as file:
            if hashlib.file_digest(file, "sha256").digest() != hashing.digest.digest():
                raise OSError(errno.EIO, "it reads back otherwise than it was written", str(path))


def open_regular(path: Path) -> IO[bytes]:
    """Open a file to read that anybody may have put there: a pipe, a socket or a device would be waited for.

    Raises:
        OSError: it is no regular file, or cannot be read.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return open(path, "rb")


def read_regular(path: Path) -> bytes:
    """The content of a file, as :func:`open_regular` opens it."""
    with open_regular(path) as file:
        return file.read()


def read_text(path: Path) -> str:
    """The text of a file that a person wrote, as :func:`open_regular` opens it: UTF-8, any line ends, no mark."""
    with open_regular(path) as file:
        return io.TextIOWrapper(file, encoding="utf-8-sig").read()


def plain(value: object) -> object:
    """A value as JSON holds it: NaN and infinities become null, array scalars and paths become plain."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    item = getattr(value, "item", None)
    return plain(item()) if callable(item) else str(value)


def parse_json(data: str | bytes) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: it is none; also where it is nested more deeply than any file of ubq, or not UTF-8.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def dump_json(value: object, indent: int | None = None) -> bytes:
    """JSON in UTF-8, with :func:`plain` applied; bytes of a name that are no UTF-8 are escaped, as JSON allows."""
    text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False, indent=indent)
    return (text + "\n").encode(errors="backslashreplace")


class LineFile:
    """A JSONL file that one process appends to, a whole line in one write.

    A line that an earlier process left torn at the end is cut off on opening.

    Raises:
        OSError: the file cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self._cut_torn_line()

    def _cut_torn_line(self) -> None:
        size = end = os.fstat(self._descriptor).st_size
        while end:
            start = max(0, end - 65536)
            newline = os.pread(self._descriptor, end - start, start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            os.ftruncate(self._descriptor, end)

    def append(self, row: Mapping[str, object]) -> None:
        """Write one row; a row that does not fit on the disk is taken back whole."""
        before = os.fstat(self._descriptor).st_size
        try:
            write_all(self._descriptor, dump_json(row))
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, before)
            raise

    def sync(self) -> None:
        """Make the rows so far durable."""
        os.fsync(self._descriptor)

    def keep(self, condition: Callable[[dict[str, object]], bool]) -> None:
        """Replace the file by its rows for which ``condition`` is true; torn and broken lines go."""
        rows = list(read_rows(self.path))
        remaining = [row for row in rows if condition(row)]
        if len(remaining) == len(rows) == sum(1 for line in self.path.read_bytes().splitlines() if line):
            return
        write_atomic(self.path, b"".join(dump_json(row) for row in remaining))
        self.close()
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    def close(self) -> None:
        os.close(self._descriptor)


def read_rows(path: Path) -> Iterator[dict[str, object]]:
    """Rows of a JSONL file that may be being written: lines that are not a whole JSON object are left out."""
    try:
        data = read_regular(path)
    except FileNotFoundError:
        return
    for line in data.split(b"\n"):
        try:
            row = parse_json(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            yield row


def read_object(path: Path) -> dict[str, Any]:
    """A file's JSON object; an empty one where there is none to read."""
    try:
        value = parse_json(read_regular(path))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
