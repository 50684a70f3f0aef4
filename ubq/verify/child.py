"""Runs exported files in processes of their own, as their users will."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ubq.data.normalization import Normalization
from ubq.verify import marks, probe

_POLL_SECONDS = 0.2


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
        further: the files of further formats that ``ubq.runtime`` loads.
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
    further: tuple[Path, ...] = ()

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
    with log_file.open("w") as log:
        # a session of its own: Ctrl-C reaches the run alone, which decides when to stop
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
            start_new_session=True, env=os.environ | {"PYTHONWARNINGS": "ignore", "TORCH_CPP_LOG_LEVEL": "ERROR"},
        )  # fmt: skip
    last = [0, 0]
    reader = threading.Thread(target=_read_progress, args=(process, last), daemon=True)
    reader.start()
    try:
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SECONDS)
            if progress is not None and last[1]:
                progress(last[0], last[1])
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    reader.join(timeout=5)
    if result_file.is_file():
        return json.loads(result_file.read_text(encoding="utf-8"))
    lines = log_file.read_text(errors="replace").strip().splitlines()
    why = f"the process ended with {process.returncode}" + (f": {lines[-1]}" if lines else "")
    return {"checks": {}, "problems": [], "error": why}


def _read_progress(process: subprocess.Popen[str], last: list[int]) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            words = line.split()
            if len(words) == 2 and all(w.isdigit() for w in words):
                last[:] = int(words[0]), int(words[1])


def examine(
    file: Path, shapes: Sequence[Sequence[int]], velocity_limits: tuple[float, float], threads: int = 0
) -> dict[str, Any]:
    """Load a file in a process of its own, draw two pairs, and say what is wrong with them.

    Args:
        file: ``NAME.onnx`` or ``NAME.pte``.
        shapes: of one velocity map and of its gathers.
        velocity_limits: lowest and highest m/s allowed.
        threads: CPU threads; 0: the runtime's choice.

    Returns:
        What ``python -m ubq.runtime`` printed, and ``problems``, a list of strings.
    """
    command = [sys.executable, "-m", "ubq.runtime", str(file), "--count", "2", "--threads", str(threads)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        return {"problems": [f"{file.name}: {last}"]}
    seen: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    wanted = [[2, *shape] for shape in shapes]
    low, high = seen["velocity_range"]
    checks = {
        f"shapes {seen['shapes']}, not {wanted}": seen["shapes"] == wanted,
        "a generated value is not finite": seen["finite"],
        "two draws with one seed differ": seen["seed_repeats"],
        f"velocities of {low:.0f} to {high:.0f} m/s": velocity_limits[0] <= low and high <= velocity_limits[1],
    }
    return seen | {"problems": [f"{file.name}: {text}" for text, held in checks.items() if not held]}
