"""A stage's own checkpoints: crash-valid folders ``step-N``, the last few kept.

::

    step-500/state.pt        what the stage saved
    step-500/manifest.json   step, and name, bytes and sha256 of each file
    step-500/DONE            written last; a folder without it is not a checkpoint

A stage that starts over moves its checkpoints to ``superseded/K/``, with a ``stage.json`` that says of which values
they are, so that going back to those values goes on from there. Once the stage is complete, with its final files
read back, all of this goes.

The files are written into ``.tmp-step-N``, made durable and renamed, so that a crash at any moment
leaves the checkpoint before it usable. Whoever reads checks the hash and goes back to the one before.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ubq.durable import HashingFile, dump_json, parse_json, sync_folder, write_atomic
from ubq.errors import CheckpointError, StageError
from ubq.i18n import gettext as _

FORMAT_VERSION = 1
STATE = "state.pt"
MANIFEST = "manifest.json"
DONE = "DONE"
SUPERSEDED = "superseded"
FACTS = "stage.json"
_OWN = ("step-", ".tmp-step-", ".old-step-")
# Room for manifest, state file and logs beside the checkpoint itself.
SPARE_BYTES = 1 << 20

Payload = dict[str, Any]


def _torch_dump(payload: Payload, file: Any) -> None:
    import torch

    torch.save(payload, file)


def _torch_load(path: Path) -> Payload:
    """Memory-mapped: whoever takes the tensors over copies them, one at a time."""
    import torch

    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


class CheckpointStore:
    """Checkpoints of one stage.

    Args:
        folder: the stage's folder; made on the first save.
        keep: checkpoints kept, at least 2, so that one can be damaged.
        warn: gets one line when a damaged checkpoint is passed over.
        before_commit: called before a checkpoint becomes valid (the runner makes the metrics durable
            there, so that no row up to the saved step can be lost).
        dump, load: serialiser; PyTorch's, loading only tensors and plain Python values.
    """

    def __init__(
        self,
        folder: Path,
        keep: int = 2,
        *,
        warn: Callable[[str], None] | None = None,
        before_commit: Callable[[], None] | None = None,
        dump: Callable[[Payload, Any], None] = _torch_dump,
        load: Callable[[Path], Payload] = _torch_load,
    ) -> None:
        if keep < 2:
            raise ValueError(f"keep must be at least 2, not {keep}")
        self.folder = folder
        self.keep = keep
        self.warn = warn or (lambda message: print(message, file=sys.stderr))
        self.before_commit = before_commit or (lambda: None)
        self._dump = dump
        self._load = load
        self._sound: set[int] = set()
        self._damaged: set[int] = set()

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step}"

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, oldest first; the content is not checked."""
        if not self.folder.is_dir():
            return []
        names = (p.name for p in self.folder.iterdir() if (p / DONE).is_file())
        return sorted(int(n[5:]) for n in names if n.startswith("step-") and n[5:].isdecimal())

    def save(self, step: int, payload: Payload) -> Path:
        """Write one checkpoint and remove those beyond ``keep``.

        Args:
            step: training steps done so far; the same step again replaces its checkpoint.
            payload: tensors and plain Python values, nested.

        Raises:
            StageError: too little room on the disk.
            OSError: the disk filled up or failed on the way; no half checkpoint is left.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_space(payload)
        temporary = self.folder / f".tmp-step-{step}"
        final = self._path(step)
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            with open(temporary / STATE, "wb") as file:
                hashing = HashingFile(file)
                with hashing.written():
                    self._dump(payload, hashing)
            files = [{"name": STATE, "bytes": hashing.bytes, "sha256": hashing.digest.hexdigest()}]
            manifest = {"format_version": FORMAT_VERSION, "step": step, "files": files}
            write_atomic(temporary / MANIFEST, dump_json(manifest))
            self.before_commit()
            if final.exists():
                self._remove(final)
            os.rename(temporary, final)
            sync_folder(self.folder)
            write_atomic(final / DONE, b"")
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        self._damaged.discard(step)
        self._sound.add(step)
        self._prune()
        return final

    def latest(self) -> tuple[int, Payload] | None:
        """The newest sound checkpoint, its hash checked; ``None`` where there is none.

        Raises:
            CheckpointError: the files are sound and yet hold something that must not be loaded.
        """
        step = self.latest_step()
        if step == 0 and 0 not in self._sound:
            return None
        try:
            return step, self._load(self._path(step) / STATE)
        except OSError:
            raise
        except Exception as error:
            raise CheckpointError(
                _("checkpoint {path} cannot be loaded: {error}").format(
                    path=self._path(step), error=(str(error) or type(error).__name__).splitlines()[0]
                ),
                _("remove that folder; the checkpoint before it is then used"),
            ) from error

    def latest_step(self) -> int:
        """Step of the newest sound checkpoint, 0 where there is none. Loads nothing, so needs no torch."""
        for step in reversed(self.steps()):
            if step in self._sound:
                return step
            if step in self._damaged:
                continue
            reason = self._damage(step)
            if reason is None:
                self._sound.add(step)
                return step
            self._damaged.add(step)
            self.warn(
                _("checkpoint {path} is damaged ({reason}); using the one before").format(
                    path=self._path(step), reason=reason
                )
            )
        return 0

    def set_aside(self, facts: Mapping[str, Any]) -> Path | None:
        """Move every finished checkpoint out of the way and remove the others; the stage's final files stay.

        Args:
            facts: whatever tells later what was moved, as JSON.

        Returns:
            The folder that the checkpoints are in now; ``None`` where there were none.
        """
        steps = self.steps()
        target = None
        if steps:
            target = self.folder / SUPERSEDED / str(1 + max((int(p.name) for p in self._sets()), default=0))
            target.mkdir(parents=True)
            write_atomic(target / FACTS, dump_json(facts))
            for step in steps:
                os.rename(self._path(step), target / self._path(step).name)
            sync_folder(target)
        if self.folder.is_dir():
            self._remove_own()
        return target

    def superseded(self) -> list[tuple[Path, dict[str, Any]]]:
        """What was set aside, the last first: the folder, and the facts it was moved with."""
        sets = []
        for folder in sorted(self._sets(), key=lambda p: -int(p.name)):
            try:
                facts = parse_json((folder / FACTS).read_bytes())
            except (OSError, ValueError):
                continue
            if isinstance(facts, dict) and self.within(folder).steps():
                sets.append((folder, facts))
        return sets

    def within(self, folder: Path) -> CheckpointStore:
        """A store of what was set aside into a folder."""
        return CheckpointStore(folder, self.keep, warn=self.warn, dump=self._dump, load=self._load)

    def bring_back(self, folder: Path) -> None:
        """Make checkpoints that were set aside the stage's own again; it has none at the time."""
        for step in self.within(folder).steps():
            os.rename(folder / self._path(step).name, self._path(step))
        sync_folder(self.folder)
        shutil.rmtree(folder)

    def clear(self) -> None:
        """Remove every checkpoint and what was set aside: the stage is complete, its final files hold what counts."""
        if self.folder.is_dir():
            shutil.rmtree(self.folder / SUPERSEDED, ignore_errors=True)
            with contextlib.suppress(OSError):  # of no harm to a stage that is complete; the next start tries again
                self._remove_own()

    def _remove_own(self) -> None:
        """Remove the checkpoints, finished or not, that were not set aside."""
        self._sound.clear()
        self._damaged.clear()
        folders = [p for p in self.folder.iterdir() if p.is_dir() and p.name.startswith(_OWN)]
        for path in sorted(folders):
            self._remove(path)
        if folders:
            sync_folder(self.folder)

    def _sets(self) -> list[Path]:
        folder = self.folder / SUPERSEDED
        return [p for p in folder.iterdir() if p.name.isdecimal()] if folder.is_dir() else []

    def _damage(self, step: int) -> str | None:
        """Why a checkpoint cannot be used, or ``None``."""
        folder = self._path(step)
        try:
            manifest = parse_json((folder / MANIFEST).read_bytes())
            if manifest["format_version"] > FORMAT_VERSION:
                return _("written by a newer ubq")
            if manifest["step"] != step:
                return _("its manifest names another step")
            for entry in manifest["files"]:
                path = folder / entry["name"]
                if path.stat().st_size != entry["bytes"]:
                    return _("{name} has the wrong size").format(name=entry["name"])
                with open(path, "rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                        return _("{name} has another hash").format(name=entry["name"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            return str(error) or type(error).__name__
        return None

    def _check_space(self, payload: Payload) -> None:
        previous = [p.stat().st_size for step in self.steps() if (p := self._path(step) / STATE).is_file()]
        needed = max([_tensor_bytes(payload), *previous[-1:]]) + SPARE_BYTES
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise StageError(
                _(
                    "too little disk space for a checkpoint in {folder}: {needed:.1f} MB needed, {free:.1f} MB free"
                ).format(folder=self.folder, needed=needed / 1e6, free=free / 1e6),
                _("make room, then resume the run"),
            )

    def _prune(self) -> None:
        sound = [s for s in self.steps() if s not in self._damaged]
        for step in self.steps():
            if step not in sound[-self.keep :]:
                self._remove(self._path(step))
                self._sound.discard(step)
        for leftover in self.folder.glob(".*-step-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _remove(self, path: Path) -> None:
        """Remove a checkpoint so that a crash on the way leaves none that looks finished."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path / DONE)
        shutil.rmtree(path)


def _tensor_bytes(value: object) -> int:
    """Bytes of the tensors and arrays in a nested value."""
    if isinstance(value, Mapping):
        return sum(_tensor_bytes(v) for v in value.values())
    if isinstance(value, list | tuple):
        return sum(_tensor_bytes(v) for v in value)
    nbytes = getattr(value, "nbytes", 0)
    return nbytes if isinstance(nbytes, int) else 0
