"""Runs exported files in processes of their own, as their users will.

A process that a signal ends (Ctrl-C, ``kill``, the kernel short of memory), that runs out of memory or that finds the
disk full says nothing about the file: it is an error of the stage, which runs again, and no failed mark.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ubq.data.normalization import Normalization
from ubq.errors import StageError, is_out_of_memory
from ubq.i18n import gettext as _
from ubq.verify import marks, probe

_POLL_SECONDS = 0.2
_DISK_FULL = "No space left on device"
MOST_APART = {"latent": 0.10, "velocity": 0.05, "seismic": 0.05}
"""Relative L2 between the pairs of two formats (``ubq.runtime.__main__.distances``): their integers are the same, and
what they compute in float between them rounds differently. The demo's ONNX files are at 0.008 (latents), 0 and 0.014
(gathers: the seismic head's grid is that of a whole batch, and batches differ here); report.json has each file's."""


@dataclass(frozen=True)
class Exported:
    """What is verified, and the facts that the file was written with.

    Args:
        file: the int8 TorchScript file.
        reference: the float model written by the same code (``--no-quantize``).
        engine: integer engine the figures are taken under (``quant.backend``).
        steps: the file's default sampling steps.
        latent: length of the latent.
        alphas_cumprod: of the training process, one value a time step.
        normalization: ranges of the model.
        velocity_shape: of one map.
        seismic_shape: of one map's gathers.
        other_files: the files of other formats that ``ubq.runtime`` loads.
        distilled: judged by where its steps end, not by one of them; ``reference`` holds the float student.
    """

    file: Path
    reference: Path
    engine: str
    steps: int
    latent: int
    alphas_cumprod: Sequence[float]
    normalization: Normalization
    velocity_shape: tuple[int, ...] = (1, 70, 70)
    seismic_shape: tuple[int, ...] = (5, 1000, 70)
    other_files: tuple[Path, ...] = ()
    distilled: bool = False

    @property
    def velocity_limits(self) -> tuple[float, float]:
        """Lowest and highest velocity that a generated map may have, m/s."""
        low, high = self.normalization.velocity_min, self.normalization.velocity_max
        margin = marks.VELOCITY_MARGIN * (high - low)
        return low - margin, high + margin


def run_probe(
    exported: Exported,
    folder: Path,
    seed: int,
    threads: int,
    count: int,
    maps: int,
    modelled: int,
    batch: int,
    progress: Callable[[int, int], None] | None,
    held_out_latents: Sequence[Sequence[float]] = (),
) -> dict[str, Any]:
    """Run ``probe.py`` on the file; returns its ``result.json``, or what kept it from writing one as ``error``.

    Leaves ``generated.pt`` in ``folder``. The process has the Python of this one, isolated (``-I``), and none of its
    working directory.

    Raises:
        StageError: the process was ended from outside, or had too little memory or disk.
    """
    job = {
        "file": str(exported.file.resolve()),
        "reference": str(exported.reference.resolve()),
        "folder": str(folder),
        "engine": exported.engine,
        "threads": threads,
        "count": count,
        "maps": max(maps, count),
        "modelled": modelled,
        "held_out_latents": held_out_latents,
        "batch": batch,
        "steps": exported.steps,
        "latent": exported.latent,
        "seed": seed,
        "velocity_shape": exported.velocity_shape,
        "seismic_shape": exported.seismic_shape,
        "velocity_limits": exported.velocity_limits,
        "alphas_cumprod": [float(a) for a in exported.alphas_cumprod],
    }
    job_file, result_file, log_file = folder / "job.json", folder / "result.json", folder / "log"
    job_file.write_text(json.dumps(job), encoding="utf-8")
    command = [sys.executable, "-I", str(Path(probe.__file__).resolve()), str(job_file)]
    last = [0, 0]

    def poll() -> None:
        if progress is not None:
            progress(*last)

    output, code = _run(command, folder, log_file, poll, lambda process: _progress_of(process, last))
    if result_file.is_file():
        result: dict[str, Any] = json.loads(result_file.read_text(encoding="utf-8"))
        _blame_the_machine(0, str(result.get("error") or ""))
        return result
    lines = output.strip().splitlines()
    _blame_the_machine(code, lines[-1] if lines else "")
    why = f"the process ended with {code}" + (f": {lines[-1]}" if lines else "")
    return {"checks": {}, "problems": [], "error": why}


def _run(
    command: Sequence[str],
    folder: Path | None,
    log: Path,
    poll: Callable[[], None],
    read: Callable[[subprocess.Popen[str]], None],
) -> tuple[str, int]:
    """Run a process to its end, its errors into ``log``; what ``poll`` raises ends it.

    Returns:
        What it wrote to ``log``, and how it ended: its exit code, or a signal's negative number.
    """
    with log.open("w") as errors:
        # a session of its own: Ctrl-C reaches the run alone, which decides when to stop
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True,
            start_new_session=True, env=os.environ | {"PYTHONWARNINGS": "ignore", "TORCH_CPP_LOG_LEVEL": "ERROR"},
        )  # fmt: skip
    reader = threading.Thread(target=read, args=(process,), daemon=True)
    reader.start()
    try:
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SECONDS)
            poll()  # also after its end: a stop may have been asked for, and the process ended with it
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    reader.join(timeout=5)
    return log.read_text(errors="replace"), process.returncode


def _blame_the_machine(code: int, last_line: str) -> None:
    """Raise where a process did not end by what the file is."""
    again = _("free some memory, then resume the run; only this stage runs again")
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = str(-code)
        text = _("the process that runs the exported file was ended by signal {name}")
        if -code == getattr(signal, "SIGKILL", 9):
            text = _("the process that runs the exported file was killed, most likely for want of memory")
            raise StageError(text, again) from MemoryError()
        raise StageError(text.format(name=name), _("resume the run; only this stage runs again"))
    if is_out_of_memory(RuntimeError(last_line)) or last_line.startswith("MemoryError"):
        text = _("the process that runs the exported file ran out of memory: {error}")
        raise StageError(text.format(error=last_line), again) from MemoryError()
    if _DISK_FULL in last_line:
        text = _("the process that runs the exported file found no room for its pairs: {error}")
        raise StageError(text.format(error=last_line), _("make room in {folder}").format(folder=tempfile.gettempdir()))


def _all_of(process: subprocess.Popen[str], written: list[str]) -> None:
    assert process.stdout is not None
    with process.stdout as stream:
        written.append(stream.read())


def _progress_of(process: subprocess.Popen[str], last: list[int]) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            words = line.split()
            if len(words) == 2 and all(w.isdigit() for w in words):
                last[:] = int(words[0]), int(words[1])


def examine(
    file: Path,
    shapes: Sequence[Sequence[int]],
    velocity_limits: tuple[float, float],
    threads: int = 0,
    poll: Callable[[], None] | None = None,
    against: Path | None = None,
) -> dict[str, Any]:
    """Load a file in a process of its own, draw two pairs, and say what is wrong with them.

    Args:
        file: ``NAME.onnx`` or ``NAME.pte``.
        shapes: of one velocity map and of its gathers.
        velocity_limits: lowest and highest m/s allowed.
        threads: CPU threads; 0: the runtime's choice.
        poll: called now and then; what it raises ends the process.
        against: pairs of the TorchScript file, .npz, that this file is to draw as well (``MOST_APART``).

    Returns:
        What ``python -m ubq.runtime`` printed, and ``problems``, a list of strings.

    Raises:
        StageError: as ``run_probe``.
    """
    command = [sys.executable, "-m", "ubq.runtime", str(file), "--count", "2", "--threads", str(threads)]
    command += ["--against", str(against)] if against else []
    written: list[str] = []
    with tempfile.TemporaryDirectory(prefix="ubq-verify-") as folder:
        output, code = _run(
            command, None, Path(folder) / "log", poll or (lambda: None), lambda process: _all_of(process, written)
        )
    if code:
        last = (output.strip().splitlines() or [f"ended with {code}"])[-1]
        _blame_the_machine(code, last)
        return {"problems": [f"{file.name}: {last}"]}
    seen: dict[str, Any] = json.loads("".join(written).strip().splitlines()[-1])
    expected = [[2, *shape] for shape in shapes]
    low, high = seen["velocity_range"]
    checks = {
        f"shapes {seen['shapes']}, not {expected}": seen["shapes"] == expected,
        "a generated value is not finite": seen["finite"],
        "two draws with one seed differ": seen["seed_repeats"],
        f"velocities of {low:.0f} to {high:.0f} m/s": velocity_limits[0] <= low and high <= velocity_limits[1],
    }
    checks |= {
        f"its {name} is {value:.1%} from that of the TorchScript file": value <= MOST_APART[name]
        for name, value in seen.get("apart", {}).items()
    }
    return seen | {"problems": [f"{file.name}: {text}" for text, held in checks.items() if not held]}
