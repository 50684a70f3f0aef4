"""Measures an exported file against every success mark, with the file itself in a process without ubq."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ubq.data.pairs import Pairs
from ubq.metrics import physics_residual, ratio_interval, real_floor, relative_l2, seismic_error, ssim
from ubq.metrics.distribution import WANTED_HELD_OUT
from ubq.verify import marks
from ubq.verify.child import Exported, examine, run_probe
from ubq.verify.report import Mark, Report

GENERATED = 64
GENERATED_MAPS = 512
"""Velocity maps held against the held-out ones. The coarse level of the distance of 256 maps moved by a third with the
noise they are drawn from; that of 64 perfect maps would be half sampling error."""
MOST_HELD_OUT = 1000
"""Held-out maps used at most: beyond them the distance hardly changes and the sorts grow."""
BLOCK = 512
"""Training maps read at a time."""
PHYSICS_PAIRS = 8


@dataclass(frozen=True)
class Int8Counts:
    """What is int8, read off the exported graph."""

    quantised_modules: int
    leaf_modules: int
    conv1d_left: int
    conv1d_before: int


def verify_export(
    exported: Exported,
    *,
    run: str,
    counts: Int8Counts,
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
            details.setdefault("other_format_files", {})[further.name] = seen
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
            from ubq.verify.picture import draw_pairs

            draw_pairs(picture, tensors["velocity"], tensors["seismic"], held_out, exported.normalization)
    return Report(run, tuple(found), details)


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
    """Diversity and distance to held-out maps, with floor, ceiling and the ratio int8/float; lattice, variogram."""
    limits = {
        "diversity": marks.MIN_DIVERSITY,
        "beats_noise": marks.MAX_NOISE_RATIO,
        "lattice": marks.MAX_LATTICE,
        "variogram": marks.MAX_VARIOGRAM,
    }
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
    variogram_mark, ratios = marks.same_variogram(tensors["all_velocity"], real)
    details["variogram_over_held_out"] = asdict(ratios)
    return [diversity_mark, noise_mark, marks.no_lattice(tensors["all_velocity"], real), variogram_mark]


def _sample(pairs: Pairs, most: int) -> Tensor:
    """At most ``most`` velocity maps (N, 1, 70, 70), spread evenly over the set."""
    return pairs.velocity_batch(np.linspace(0, len(pairs) - 1, min(len(pairs), most)).round().astype(np.int64))


def _blocks(pairs: Pairs) -> Iterator[Tensor]:
    for start in range(0, len(pairs), BLOCK):
        yield pairs.velocity_batch(np.arange(start, min(start + BLOCK, len(pairs))))
