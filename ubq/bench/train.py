"""Training stages against a plain loop: time to the first step, steps/s and peak memory, on more and more files.

Every figure is of a process of its own (``ubq.bench.train_process``), the two ways in turn. The plain loop is the one
that a first script has: it loads every file whole before it starts, and computes the latents by the frozen encoder in
every step. Model, batch size, optimiser and average are the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from ubq.bench.timing import machine, markdown
from ubq.config.load import load_config, write_frozen
from ubq.config.schema import Config
from ubq.cpu import cores
from ubq.data.families import SAMPLES_PER_FILE, SEISMIC_SHAPE, VELOCITY_SHAPE
from ubq.data.synthetic import synthesise_velocity
from ubq.errors import StageError
from ubq.i18n import gettext as _
from ubq.stages.device import find_device
from ubq.stages.distill import Distill
from ubq.stages.pipeline import PIPELINE

STAGES = tuple(stage.name for stage in PIPELINE if stage.trains and not isinstance(stage, Distill))
"""Distillation has no plain loop to stand beside."""
NEEDS_SEISMIC = ("train-seismic", "qat-decoders")
PLAIN, OURS, TOGETHER = "plain", "ubq", "together"
"""A plain loop; a stage as ``ubq run`` has it; the same by several processes that share the threads."""
MAPS_SHAPED = 64
"""Maps that are really synthesised; a file repeats them. What a map shows does not change the time of a step."""


@dataclass(frozen=True)
class Figures:
    """One process.

    Attributes:
        first_step: seconds from opening the data to the end of the first step.
        steps_per_second: of the steps after it, median.
        peak_mb: largest resident memory of the process, or the most of the GPU's memory that was taken.
        data_mb: how much of it came after the model was built: data, activations, optimiser.
    """

    stage: str
    way: str
    files: int
    first_step: float
    steps_per_second: float
    peak_mb: float
    data_mb: float


@dataclass(frozen=True)
class TrainingResult:
    """Every process's figures."""

    machine: str
    device: str
    preset: str
    threads: int
    processes: int
    steps: int
    velocity_file_mb: float
    seismic_file_mb: float
    figures: tuple[Figures, ...]

    def to_dict(self) -> dict[str, object]:
        """As JSON."""
        return asdict(self)

    def to_markdown(self) -> str:
        """The table of ``bench/README.md``."""
        by_key = {(f.stage, f.files, f.way): f for f in self.figures}
        rows = []
        for stage, files in dict.fromkeys((f.stage, f.files) for f in self.figures):
            plain, ours = (by_key[stage, files, way] for way in ways(self.processes))
            rows.append(
                [
                    stage,
                    str(files),
                    f"{plain.first_step:.2f} / {ours.first_step:.2f}",
                    f"{plain.steps_per_second:.2f} / {ours.steps_per_second:.2f}",
                    f"{ours.steps_per_second / plain.steps_per_second:.2f}",
                    f"{plain.peak_mb:.0f} / {ours.peak_mb:.0f}",
                ]
            )
        table = markdown(["stage", "files", "first step s", "steps/s", "ratio", "peak MB"], rows)
        compared = (
            "plain loop / ubq" if self.processes == 1 else f"one process / {self.processes} that share its threads"
        )
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return (
            f"{table}\n\n{compared}; preset {self.preset} on {self.device}, {threads}, "
            f"median of {self.steps - 1} steps after the first, each by itself; a velocity file has "
            f"{self.velocity_file_mb:.0f} MB, a seismic file {self.seismic_file_mb:.0f} MB; {self.machine}"
        )


def measure_training(
    preset: str,
    stages: Sequence[str],
    files: Sequence[int],
    *,
    steps: int,
    gathers: int,
    threads: int,
    processes: int = 1,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TrainingResult:
    """Run every stage on every number of files, both ways in turn.

    Args:
        preset: whose model, batch sizes and settings are trained.
        stages: of ``STAGES``.
        files: numbers of data files, at most 32.
        steps: training steps of each process.
        gathers: in a seismic file (OpenFWI: 500).
        threads: of torch; 0: all cores.
        processes: with more than one: so many against one, instead of ``ubq`` against a plain loop.
        device: that trains.
        progress: called with (done, total) processes.

    Raises:
        ConfigError: no such preset.
        PreflightError: no such device here.
        StageError: a process failed.
    """
    figures: list[Figures] = []
    with tempfile.TemporaryDirectory(prefix="ubq-bench-") as name:
        root = Path(name)
        config = load_config(preset, {"threads": threads, "device": device}, isolated=True).config
        found = find_device(config.device)
        write_files(root, max(files), gathers if set(stages) & set(NEEDS_SEISMIC) else 0)
        done, total = 0, len(stages) * len(files) * len(ways(processes))
        for stage in stages:
            for count in files:
                run = root / f"{stage}-{count}"
                prepare(config, run, root, count, stage in NEEDS_SEISMIC)
                train_process(run, stage, "prepare", steps)
                for way in ways(processes):
                    together = processes if way == TOGETHER else 1
                    measured = train_process(run, stage, PLAIN if way == PLAIN else OURS, steps, processes=together)
                    figures.append(Figures(stage, way, count, **measured))
                    done += 1
                    progress(done, total)
        sizes = [_megabytes(root / "0" / name) for name in ("vel2_1_0.npy", "pairs/seis2_1_0.npy")]
    return TrainingResult(
        machine(),
        _title(found),
        preset,
        config.threads or cores(),
        processes,
        steps,
        sizes[0],
        sizes[1],
        tuple(figures),
    )


def _title(device: torch.device) -> str:
    """What computes: the GPU by its name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def ways(processes: int) -> tuple[str, str]:
    """The two that are compared."""
    return (PLAIN, OURS) if processes == 1 else (OURS, TOGETHER)


def write_files(root: Path, count: int, gathers: int) -> None:
    """Folders 0 to count-1 with one velocity file each and, below ``pairs``, one pair; ``val`` with a small one.

    Args:
        root: where.
        count: folders.
        gathers: pairs in a file below ``pairs``; 0: none.
    """
    shaped = synthesise_velocity("curvefault-a", MAPS_SHAPED, seed=0)
    rng = np.random.default_rng(0)

    def write(folder: Path, number: int, maps: int, seismic: bool) -> None:
        folder.mkdir(parents=True)
        repeated = np.resize(shaped, (maps, *VELOCITY_SHAPE)).astype(np.float32)
        np.save(folder / f"vel2_1_{number}.npy", repeated)
        if seismic:
            gathers_of = rng.standard_normal((maps, *SEISMIC_SHAPE), dtype=np.float32)
            np.save(folder / f"seis2_1_{number}.npy", gathers_of)

    for number in range(count):
        write(root / str(number), number, SAMPLES_PER_FILE, seismic=False)
        if gathers:
            write(root / str(number) / "pairs", number, gathers, seismic=True)
    write(root / "val", 32, 8, seismic=bool(gathers))


def prepare(config: Config, run: Path, root: Path, count: int, seismic: bool) -> None:
    """A run's folder with its configuration, ready for ``train_process``: links to the first ``count`` files."""
    folder = run / "input"
    folder.mkdir(parents=True)
    for number in range(count):
        source = root / str(number) / ("pairs" if seismic else ".")
        for file in source.glob("*2_1_*.npy"):
            (folder / file.name).symlink_to(file)
    data = config.data.model_copy(
        update={
            "train_velocity": str(folder),
            "train_seismic": str(folder) if seismic else "",
            "val_velocity": str(root / "val"),
            "val_seismic": str(root / "val") if seismic else "",
        }
    )
    frozen = config.model_copy(update={"data": data})
    (run / "config.toml").write_text(write_frozen(frozen), encoding="utf-8")


def train_process(
    run: Path, stage: str, way: str, steps: int, environ: Mapping[str, str] | None = None, processes: int = 1
) -> dict[str, float]:
    """What ``ubq.bench.train_process`` prints, by one process or the first of several.

    Args:
        environ: its environment, else this one's.

    Raises:
        StageError: it failed.
    """
    module = ["-m", "ubq.bench.train_process", str(run), stage, way, str(steps)]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(torchrun if processes > 1 else []), *module]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise StageError(
            _("measuring {stage} failed: {why}").format(stage=stage, why=lines[-1] if lines else done.returncode),
            _("free some memory, or measure a smaller preset"),
        )
    return json.loads(done.stdout.splitlines()[-1])


def _megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6 if path.is_file() else 0.0
