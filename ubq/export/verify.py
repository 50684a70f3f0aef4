"""Measures an exported file against every success mark, with the file itself in a process without ubq."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ubq.data.normalization import Normalization
from ubq.data.pairs import Pairs
from ubq.export import marks, probe
from ubq.export.formats import examine
from ubq.export.report import Mark, Report
from ubq.metrics import physics_residual, ratio_interval, real_floor, relative_l2, seismic_error, ssim
from ubq.metrics.distribution import WANTED_HELD_OUT

GENERATED = 64
GENERATED_MAPS = 512
"""Velocity maps held against the held-out ones. The coarse level of the distance of 256 maps moved by a third with the
noise they are drawn from; that of 64 perfect maps would be half sampling error."""
MOST_HELD_OUT = 1000
"""Held-out maps used at most: beyond them the distance hardly changes and the sorts grow."""
BLOCK = 512
"""Training maps read at a time."""
PHYSICS_PAIRS = 8
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


@dataclass(frozen=True)
class Counts:
    """What is int8, read off the exported graph."""

    quantised_modules: int
    leaf_modules: int
    conv1d_left: int
    conv1d_before: int


def verify_export(
    exported: Exported,
    *,
    run: str,
    counts: Counts,
    held_out: Pairs,
    train: Pairs,
    rows: Iterable[Mapping[str, Any]],
    stages: Sequence[str],
    seed: int = 0,
    threads: int = 0,
    count: int = GENERATED,
    maps: int = GENERATED_MAPS,
    batch: int = 16,
    forward: Callable[[np.ndarray], np.ndarray] | None = None,
    picture: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Measure every mark of an exported file.

    Args:
        exported: the file and its facts.
        run: name of the run, for the report.
        counts: what is int8.
        held_out: validation samples; with seismic opened, some are drawn into the picture.
        train: training samples; only velocity maps are read.
        rows: of ``metrics.jsonl``.
        stages: the stages of this run that train.
        seed: of the noise the pairs are generated from.
        threads: CPU threads of the generating process; 0: torch's choice.
        count: pairs to generate.
        maps: velocity maps to generate for the distribution distance, the pairs' among them.
        batch: pairs generated at a time.
        forward: forward modelling of one map; None leaves the physics residual out.
        picture: where to draw generated beside held-out pairs.
        progress: called with (done, total) pairs now and then; what it raises ends the measurement.

    Returns:
        The report, complete even where the file does not work at all.
    """
    loss_mark, trends = marks.loss_falling(rows, stages)
    found: list[Mark] = [
        marks.quantised_modules(counts.quantised_modules, counts.leaf_modules),
        marks.conv1d_left(counts.conv1d_left, counts.conv1d_before),
        loss_mark,
        marks.file_size(exported.file),
    ]
    details: dict[str, Any] = {"engine": exported.engine, "solver_steps": exported.steps, "seed": seed}
    details["losses"] = [asdict(t) for t in trends]
    with tempfile.TemporaryDirectory(prefix="ubq-verify-") as folder:
        result = run_probe(exported, Path(folder), seed, threads, count, maps, batch, progress)
        details["timing"] = result.get("timing", {})
        details["torch"] = result.get("torch")
        error = result.get("error")
        problems = [*result["problems"], *([error] if error else [])]
        for further in exported.further:
            seen = examine(
                further, (exported.velocity_shape, exported.seismic_shape), exported.velocity_limits, threads
            )
            details.setdefault("further_files", {})[further.name] = seen
            result["checks"][further.name] = not seen["problems"]
            problems += seen["problems"]
        found.append(marks.generation(result["checks"], problems))
        tensors = _load(Path(folder) / "generated.pt")
        found.append(_fidelity(exported, result, tensors, details))
        found.extend(_distribution(tensors, held_out, train, error, details))
        sound = result["checks"].get("finite") and result["checks"].get("velocity_range")
        if forward is not None and "seismic" in tensors and sound:  # a wild map would blow the wave equation up
            pairs = slice(0, PHYSICS_PAIRS)
            details["physics_residual"] = asdict(
                physics_residual(tensors["velocity"][pairs].numpy(), tensors["seismic"][pairs].numpy(), forward)
            )
        if picture is not None and "seismic" in tensors:
            from ubq.export.picture import draw_pairs

            draw_pairs(picture, tensors["velocity"], tensors["seismic"], held_out, exported.normalization)
    return Report(run, tuple(found), details)


def run_probe(
    exported: Exported,
    folder: Path,
    seed: int,
    threads: int,
    count: int,
    maps: int,
    batch: int,
    progress: Callable[[int, int], None] | None,
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


def _load(path: Path) -> dict[str, Tensor]:
    return torch.load(path, mmap=True, weights_only=True) if path.is_file() else {}


def _fidelity(exported: Exported, result: Mapping[str, Any], tensors: Mapping[str, Tensor], details: dict) -> Mark:
    """int8 against float: decoders from the same latents, U-Net from the same noised latents."""
    if result.get("unet_step") is None or "reference_seismic" not in tensors:
        why = result.get("error") or "the file or its float reference gave no pairs"
        return marks.unmeasured("int8_fidelity", marks.MAX_ERROR, why)
    scale = exported.normalization
    own, wanted = tensors["velocity"], tensors["reference_velocity"]
    seismic = seismic_error(tensors["seismic"], tensors["reference_seismic"], scale.seismic)
    details["int8_against_float"] = {
        "velocity_relative_l2": relative_l2(scale.velocity(own), scale.velocity(wanted)),
        "velocity_ssim": ssim(own, wanted, scale.velocity_min, scale.velocity_max),
        "seismic_relative_l2": asdict(seismic),
        "unet_step_relative_l2": result["unet_step"],
        "unet_step_relative_l2_at_time": result["unet_steps"],
        "whole_chain_latent_relative_l2": relative_l2(tensors["latent"], tensors["reference_latent"]),
        "latents": len(own),
    }
    return marks.int8_fidelity(
        details["int8_against_float"]["velocity_relative_l2"],
        seismic.log_normalised,
        result["unet_step"],
        exported.engine,
    )


def _distribution(
    tensors: Mapping[str, Tensor], held_out: Pairs, train: Pairs, error: str | None, details: dict
) -> list[Mark]:
    """Diversity and distance to held-out maps, with floor, ceiling and the ratio int8/float."""
    limits = {"diversity": marks.MIN_DIVERSITY, "beats_noise": marks.MAX_NOISE_RATIO}
    if "velocity" not in tensors or not bool(torch.isfinite(tensors["velocity"]).all()):
        why = error or "the file gave no finite maps"
        return [marks.unmeasured(name, limit, why) for name, limit in limits.items()]
    generated = tensors["velocity"]
    real = _sample(held_out, MOST_HELD_OUT)
    diversity_mark, spread = marks.diversity(generated, real, _blocks(train))
    noise_mark, own, ceiling = marks.beats_noise(tensors["all_velocity"], tensors["all_noise_velocity"], real)
    floor = real_floor(real, _sample(train, MOST_HELD_OUT), count=len(tensors["all_velocity"]))
    details["diversity"] = asdict(spread)
    details["sliced_wasserstein"] = {
        "generated": asdict(own),
        "real_floor": asdict(floor),
        "noise_ceiling": asdict(ceiling),
        "generated_maps": len(tensors["all_velocity"]),
        "held_out_maps": len(real),
        "held_out_maps_wanted": WANTED_HELD_OUT,
    }
    if "float_velocity" in tensors and bool(torch.isfinite(tensors["float_velocity"]).all()):
        ratio = ratio_interval(generated, tensors["float_velocity"], real)
        details["sliced_wasserstein"]["int8_over_float"] = asdict(ratio)
    return [diversity_mark, noise_mark]


def _sample(pairs: Pairs, most: int) -> Tensor:
    """At most ``most`` velocity maps (N, 1, 70, 70), spread evenly over the set."""
    return pairs.velocity_batch(np.linspace(0, len(pairs) - 1, min(len(pairs), most)).round().astype(np.int64))


def _blocks(pairs: Pairs) -> Iterator[Tensor]:
    for start in range(0, len(pairs), BLOCK):
        yield pairs.velocity_batch(np.arange(start, min(start + BLOCK, len(pairs))))
