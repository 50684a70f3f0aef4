"""Forward modelling: the shot gathers of a velocity map, with OpenFWI's acquisition.

Constant-density acoustic wave equation, no free surface, absorbing edges; ``ubq.acquisition`` has the rest. Data sets
are modelled by deepwave (``pip install 'ubq[physics]'``), which is imported when the first map is modelled. Pairs that
a run models for itself are by the solver that its exported file carries: it needs nothing more and takes about as long.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from filelock import FileLock, Timeout

from ubq.acquisition import (
    ABSORBING_CELLS,
    CELL,
    DEPTH_CELL,
    PEAK_FREQUENCY,
    SOURCES,
    TIME_STEP,
    WAVELET_PEAK,
    acquisition_for,
)
from ubq.config.extras import install_line, missing_modules
from ubq.cpu import cores
from ubq.data.array_file import ArrayFile, open_array
from ubq.data.families import SEISMIC_SHAPE, VELOCITY_SHAPE
from ubq.data.files import data_files
from ubq.data.plausible import check_velocity
from ubq.data.shard import WHOLE, Shard
from ubq.durable import dump_json, parse_json, write_atomic
from ubq.errors import DataError, HeldError, PreflightError, StageError, UsageError
from ubq.i18n import gettext as _

if TYPE_CHECKING:
    import torch

    from ubq.model.wave import WaveEquation

ACCURACY: Literal[2, 4, 6, 8] = 4
"""Order of the spatial differences."""

MANIFEST = "forward.json"
"""Beside the gathers: for each file, the SHA-256 of the velocity file it was modelled from."""
_FLUSH_SECONDS = 2.0
_FEW_MAPS = 16
"""Fewer maps than this are modelled in this process: starting workers takes longer."""


def require_deepwave() -> None:
    """Fail early where deepwave is missing.

    Raises:
        UsageError: it is not installed.
    """
    if missing_modules("physics"):
        raise UsageError(_("forward modelling needs deepwave, which is not installed"), install_line("physics"))


@cache
def _acquisition(device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Source amplitudes (5, 1, T), source cells (5, 1, 2) and receiver cells (5, 70, 2) as (depth, offset)."""
    import torch
    from deepwave.wavelets import ricker

    shots, samples, receivers = SEISMIC_SHAPE
    # deepwave records the wavefield before a step's source is added, so the first of one sample more is always zero.
    wavelet = ricker(PEAK_FREQUENCY, samples + 1, TIME_STEP, WAVELET_PEAK)
    source_x = torch.tensor(SOURCES)
    source_cells = torch.stack([torch.full_like(source_x, DEPTH_CELL), source_x], dim=1)[:, None]
    receiver_x = torch.arange(receivers)
    receiver_cells = torch.stack([torch.full_like(receiver_x, DEPTH_CELL), receiver_x], dim=1)
    return (
        -wavelet.repeat(shots, 1, 1).to(device),
        source_cells.to(device),
        receiver_cells.repeat(shots, 1, 1).to(device),
    )


def forward_model(velocity: np.ndarray, device: str = "cpu") -> np.ndarray:
    """Shot gathers of one velocity map.

    Args:
        velocity: (1, 70, 70) or (70, 70), m/s.
        device: where it is computed.

    Returns:
        (5, 1000, 70) float32: source, time, receiver.

    Raises:
        UsageError: deepwave is missing.
    """
    require_deepwave()
    import deepwave
    import torch

    amplitudes, sources, receivers = _acquisition(device)
    map_HW = torch.as_tensor(np.ascontiguousarray(velocity, np.float32)).reshape(np.shape(velocity)[-2:])
    with torch.no_grad(), _one_thread():
        recorded = deepwave.scalar(
            map_HW.to(device),
            CELL,
            TIME_STEP,
            source_amplitudes=amplitudes,
            source_locations=sources,
            receiver_locations=receivers,
            accuracy=ACCURACY,
            pml_width=ABSORBING_CELLS,
            pml_freq=PEAK_FREQUENCY,
        )[-1]
    return recorded[:, :, 1:].transpose(1, 2).contiguous().cpu().numpy()


@cache
def _wave_equation(shape: tuple[int, int, int]) -> WaveEquation:
    from ubq.model.wave import WaveEquation

    acquisition = acquisition_for(VELOCITY_SHAPE, shape)
    assert acquisition is not None, "the configuration was refused"
    return WaveEquation(**asdict(acquisition))


def wave_gathers(velocity: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Shot gathers of one velocity map by the solver of the exported file, with its sources and samples.

    Args:
        velocity: (1, 70, 70), m/s.
        shape: of the gathers, which ``acquisition_for`` knows an acquisition for.

    Returns:
        (S, T, 70) float32: source, time, receiver.
    """
    import torch

    with _one_thread():
        return _wave_equation(shape)(torch.from_numpy(velocity)[None])[0].numpy()


@dataclass(frozen=True)
class _Job:
    """One velocity file and the seismic file it becomes.

    Until it is whole, the seismic file has another name, and a sidecar says which maps are in it.
    """

    velocity: ArrayFile
    target: Path
    digest: str
    wave_shape: tuple[int, int, int] | None

    @property
    def partial(self) -> Path:
        return self.target.with_name(f".{self.target.name}.partial")

    @property
    def sidecar(self) -> Path:
        return self.target.with_name(f".{self.target.name}.done")

    @property
    def bytes(self) -> int:
        return self.velocity.samples * int(np.prod(self._shape)) * 4

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.wave_shape or SEISMIC_SHAPE

    def begin(self) -> np.ndarray:
        """Which maps of the partial file are done, (N,) uint8; starts one where there is none of this velocity file."""
        with contextlib.suppress(OSError):
            head, done = self.sidecar.read_bytes()[:64], self.sidecar.read_bytes()[64:]
            if (
                head.decode(errors="replace") == self.digest
                and len(done) == self.velocity.samples
                and self.partial.stat().st_size == self._offset + self.bytes
            ):
                return np.frombuffer(done, np.uint8).copy()
        self.sidecar.unlink(missing_ok=True)
        with open(self.partial, "wb") as stream:
            header = {"descr": "<f4", "fortran_order": False, "shape": (self.velocity.samples, *self._shape)}
            np.lib.format.write_array_header_1_0(stream, header)
            assert stream.tell() == self._offset
            stream.truncate(self._offset + self.bytes)
        return np.zeros(self.velocity.samples, np.uint8)

    @property
    def _offset(self) -> int:
        """Bytes of the header: numpy aligns it to 64, and 128 hold any shape of ours."""
        return 128

    def model(self, row: int) -> None:
        """Model one map into the partial file."""
        velocity = self.velocity.read((row,))[0]
        gather = wave_gathers(velocity, self.wave_shape) if self.wave_shape else forward_model(velocity)
        if not np.isfinite(gather).all():
            raise DataError(
                _("{path}, sample {row}: the modelled gather is not finite").format(path=self.velocity.path, row=row),
                _("look at the maps with: ubq data inspect {folder}").format(folder=self.velocity.path.parent),
            )
        with open(self.partial, "r+b", buffering=0) as stream:
            stream.seek(self._offset + row * gather.nbytes)
            view = gather.astype("<f4", copy=False).data.cast("B")
            while view:
                view = view[stream.write(view) :]

    def save(self, done: np.ndarray) -> None:
        """Note which maps are done, once they are safely on disk."""
        with open(self.partial, "r+b") as stream:
            os.fsync(stream.fileno())
        write_atomic(self.sidecar, self.digest.encode() + done.tobytes())

    def finish(self) -> None:
        """Give the whole file its name."""
        folder = self.target.parent
        with FileLock(folder / f".{MANIFEST}.lock"):  # other parts of the same work add theirs
            known = {**_manifest(folder), self.target.name: self.digest}
            write_atomic(folder / MANIFEST, dump_json(dict(sorted(known.items())), indent=1))
        os.replace(self.partial, self.target)
        self.sidecar.unlink(missing_ok=True)


def _manifest(folder: Path) -> dict[str, str]:
    try:
        content = parse_json((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def forward_files(
    velocity_dir: Path,
    out_dir: Path,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    shard: Shard = WHOLE,
    wave_shape: tuple[int, int, int] | None = None,
) -> bool:
    """Model the gathers of every velocity map of a folder, under the partners' names.

    Resumable: a whole seismic file is left as it is, and an interrupted one goes on where it was, some seconds of work
    at most being done twice. A file that was modelled from other maps of the same name is modelled again.

    Args:
        velocity_dir: a folder, file or pattern of velocity maps (``ubq.data.files``).
        out_dir: where the seismic files go; made where it is missing, may be ``velocity_dir``.
        workers: processes, one thread each; 0: one for each core.
        progress: called with (maps done, maps in all).
        should_stop: polled between maps.
        shard: the part of the files to work on; the others may be worked on at the same time.
        wave_shape: of gathers that the exported file's own solver makes (``wave_gathers``); None: OpenFWI's, by
            deepwave.

    Returns:
        Whether every map is done; False only after ``should_stop``.

    Raises:
        UsageError: deepwave is missing.
        DataError: a velocity file that cannot be used, a map with impossible velocities, an unwritable folder.
        PreflightError: too little disk.
        HeldError: another process is modelling into the same folder.
    """
    if wave_shape is None:
        require_deepwave()
    report, stop = progress or (lambda done, total: None), should_stop or (lambda: False)
    velocity_files = [
        (file.path, open_array(file.path, "velocity"), file.id)
        for file in shard.of(data_files(velocity_dir, "velocity"))
    ]  # fails before anything is written
    for path, _array, id in velocity_files:
        if id is None:
            raise DataError(
                _("{path} is not named as OpenFWI names velocity files").format(path=path),
                _("rename it to model1.npy or vel2_1_0.npy"),
            )
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        with _locked(out_dir, shard):
            jobs: list[_Job] = []
            total = ready = 0
            for path, array, id in velocity_files:
                assert id is not None
                total += array.samples
                # A data set's own root keeps OpenFWI's subfolders; any other folder gets the files themselves.
                in_root = path.resolve() == (out_dir / id.relative_path("velocity")).resolve()
                target = out_dir / (id.relative_path("seismic") if in_root else id.name("seismic"))
                target.parent.mkdir(exist_ok=True)
                job = _Job(array, target, _checked_digest(path, array), wave_shape)
                if target.exists() and _manifest(target.parent).get(target.name, job.digest) == job.digest:
                    whole = open_array(target, "seismic", wave_shape)
                    if whole.samples != array.samples:
                        raise DataError(
                            _("{seismic} has {given} samples, but {velocity} has {wanted}").format(
                                seismic=target, given=whole.samples, velocity=path, wanted=array.samples
                            ),
                            _("remove it, or choose another folder"),
                        )
                    ready += array.samples
                else:
                    jobs.append(job)
            _check_space(jobs, out_dir)
            return _Run(jobs, ready, total, report, stop).work(workers or cores())
    except OSError as error:
        raise DataError(
            _("cannot write {folder}: {why}").format(folder=out_dir, why=error.strerror or error),
            _("choose another folder"),
        ) from error


class _Run:
    """Works through the jobs, in this process or in several."""

    def __init__(
        self,
        jobs: list[_Job],
        ready: int,
        total: int,
        report: Callable[[int, int], None],
        stop: Callable[[], bool],
    ) -> None:
        self._jobs, self._total, self._report, self._stop = jobs, total, report, stop
        self._done = {job.target: job.begin() for job in jobs}
        self._ready = ready + sum(int(done.sum()) for done in self._done.values())
        self._unsaved: set[_Job] = set()
        self._saved_at = time.monotonic()
        report(self._ready, total)

    def work(self, workers: int) -> bool:
        left = self._total - self._ready
        try:
            for job in self._jobs:
                if self._done[job.target].all():
                    job.finish()
            if workers == 1 or left < _FEW_MAPS:
                return self._here()
            return self._in_workers(min(workers, left))
        finally:
            self._save()

    def _open_rows(self) -> Iterator[tuple[_Job, int]]:
        for job in self._jobs:
            for row in np.flatnonzero(self._done[job.target] == 0):
                yield job, int(row)

    def _here(self) -> bool:
        for job, row in self._open_rows():
            if self._stop():
                return False
            job.model(row)
            self._note(job, row)
        return True

    def _in_workers(self, workers: int) -> bool:
        rows = self._open_rows()
        pending: dict[Future[None], tuple[_Job, int]] = {}
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, _start_worker) as pool:
            try:
                while True:
                    stopping = self._stop()
                    # A short queue keeps the workers busy and a stop quick.
                    while not stopping and len(pending) < 2 * workers and (next_row := next(rows, None)):
                        pending[pool.submit(next_row[0].model, next_row[1])] = next_row
                    if not pending or stopping:
                        break
                    finished, _rest = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in finished:
                        future.result()
                        self._note(*pending.pop(future))
            except BrokenProcessPool as error:
                if self._stop():  # whoever stops a whole process group stops the workers too
                    return False
                raise StageError(
                    _("a forward modelling process was killed"),
                    _("lower data.workers, memory may be short; then resume"),
                ) from error
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
            for future, (job, row) in pending.items():
                if not future.cancelled() and future.exception() is None:
                    self._note(job, row)
        return self._ready == self._total

    def _note(self, job: _Job, row: int) -> None:
        self._done[job.target][row] = 1
        self._ready += 1
        self._unsaved.add(job)
        if self._done[job.target].all():
            self._unsaved.discard(job)
            job.save(self._done[job.target])
            job.finish()
        elif time.monotonic() - self._saved_at > _FLUSH_SECONDS:
            self._save()
        self._report(self._ready, self._total)

    def _save(self) -> None:
        for job in self._unsaved:
            job.save(self._done[job.target])
        self._unsaved.clear()
        self._saved_at = time.monotonic()


def _checked_digest(path: Path, array: ArrayFile) -> str:
    """SHA-256 of a velocity file whose every map can be modelled."""
    for row in range(array.samples):
        sample = array.read((row,))
        check_velocity(path, row, float(sample.min()), float(sample.max()))
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_space(jobs: list[_Job], out_dir: Path) -> None:
    needed = sum(job.bytes - (job.partial.stat().st_blocks * 512 if job.partial.exists() else 0) for job in jobs)
    free = shutil.disk_usage(out_dir).free
    if needed > free:
        raise PreflightError(
            _("{folder} has {free:.1f} GB free, but the gathers need {needed:.1f} GB").format(
                folder=out_dir, free=free / 1e9, needed=needed / 1e9
            ),
            _("free some space or choose another folder"),
        )


@contextlib.contextmanager
def _locked(out_dir: Path, shard: Shard) -> Iterator[None]:
    part = "" if shard.whole else f"-{shard.number}-of-{shard.count}"
    lock = FileLock(out_dir / f".forward{part}.lock", timeout=0)
    try:
        with lock:
            yield
    except Timeout:
        raise HeldError(
            _("another process is modelling into {folder}").format(folder=out_dir), _("wait for it or stop it")
        ) from None


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread inside the block: so small a grid gains nothing from more, and workers would wait on each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _start_worker() -> None:
    """The parent alone handles a terminal's signals; a worker whose parent was killed goes too."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
