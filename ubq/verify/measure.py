"""Measures an exported file against every success mark, with the file itself in a process without ubq."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ubq.acquisition import acquisition_for
from ubq.data.pairs import Pairs
from ubq.i18n import gettext as _
from ubq.metrics import (
    physics_errors,
    physics_reference,
    ratio_interval,
    real_floor,
    relative_l2,
    seismic_error,
    ssim,
)
from ubq.metrics.distribution import WANTED_HELD_OUT
from ubq.runtime.wave import WaveEquation
from ubq.verify import marks
from ubq.verify.child import Exported, examine, run_probe
from ubq.verify.evidence import NEAREST, Evidence, of_copies, of_maps, of_pairs, write_evidence
from ubq.verify.picture import Row, draw_pairs, rows_of
from ubq.verify.report import Mark, Report

GENERATED = 64
GENERATED_MAPS = 512
"""Velocity maps held against the held-out ones. The coarse level of the distance of 256 maps moved by a third with the
noise they are drawn from; that of 64 perfect maps would be half sampling error."""
MOST_HELD_OUT = 1000
"""Held-out maps used at most: beyond them the distance hardly changes and the sorts grow."""
BLOCK = 512
"""Training maps read at a time."""
PHYSICS_PAIRS = 16
"""Generated pairs whose gathers are modelled."""
OTHER_FILE = 16
"""What the look at a file of another format counts for, in maps: most of it is loading."""
PAIRS_COMPARED = 8
"""Generated pairs that a file of another format is to draw as well."""
DRAWN = 3
"""Generated pairs in the picture, and as many held-out ones."""


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
    picture: Path | None = None,
    evidence: Path | None = None,
    latents: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Measure every mark of an exported file.

    Args:
        exported: the file and its facts.
        run: name of the run, for the report.
        counts: what is int8.
        held_out: validation samples; some are drawn into the picture, with their gathers where those were opened.
        train: training samples; only velocity maps are read.
        rows: of ``metrics.jsonl``.
        stages: the stages of this run that train.
        seed: of the noise the pairs are generated from.
        threads: CPU threads of the generating process; 0: torch's choice.
        count: pairs to generate.
        maps: velocity maps to generate for the distribution distance, the pairs' among them.
        batch: pairs generated at a time.
        picture: where to draw generated beside held-out pairs.
        evidence: where to keep what the report's pictures are drawn from (``ubq.verify.evidence``).
        latents: (M, L) of the held-out maps; with them the picture shows what the decoder makes of some.
        progress: called with (done, total) pairs now and then, total 0 while that is unknown; what it raises ends it.

    Returns:
        The report, complete even where the file does not work at all.
    """
    loss_mark, trends = marks.loss_falling(rows, stages)
    results: list[Mark] = [
        marks.quantised_modules(counts.quantised_modules, counts.leaf_modules),
        marks.conv1d_left(counts.conv1d_left, counts.conv1d_before),
        loss_mark,
        marks.file_size(exported.file),
    ]
    details: dict[str, Any] = {"engine": exported.engine, "solver_steps": exported.steps, "seed": seed}
    details["losses"] = [asdict(t) for t in trends]
    acquisition = acquisition_for(exported.velocity_shape, exported.seismic_shape)
    solver = WaveEquation(**asdict(acquisition)) if acquisition else None
    modelled = min(PHYSICS_PAIRS, count) if solver else 0
    rest = OTHER_FILE * len(exported.other_files) + maps + modelled
    work = _Work(progress, probed=max(maps, count) + modelled + count, rest=rest)
    with tempfile.TemporaryDirectory(prefix="ubq-verify-") as folder:
        result = run_probe(
            exported, Path(folder), seed, threads, count, maps, modelled, batch, work.of_probe,
            [] if latents is None else latents[torch.from_numpy(_drawn_held_out(held_out))].tolist(),
        )  # fmt: skip
        work.add(0)
        details["timing"] = result.get("timing", {})
        details["torch"] = result.get("torch")
        error = result.get("error")
        problems = [*result["problems"], *([error] if error else [])]
        tensors = _load(Path(folder) / "generated.pt")
        pairs = _few_pairs(tensors, Path(folder) / "pairs.npz") if exported.other_files else None
        for other in exported.other_files:
            seen = examine(
                other,
                (exported.velocity_shape, exported.seismic_shape),
                exported.velocity_limits,
                threads,
                work.wait,
                pairs,
            )
            work.add(OTHER_FILE)
            details.setdefault("other_format_files", {})[other.name] = seen
            result["checks"][other.name] = not seen["problems"]
            problems += seen["problems"]
        results.append(marks.generation(result["checks"], problems))
        results.append(_fidelity(exported, result, tensors, details))
        maps_kept: Evidence = {}
        results.extend(_distribution(tensors, held_out, train, error, exported.velocity_limits, details, maps_kept))
        work.add(maps)
        results.append(_physics(solver, tensors, error, details))
        work.add(modelled)
        # also of a model that fails: alike or strange pairs are what one wants to see then
        if "seismic" in tensors and result["checks"].get("shapes") and result["checks"].get("finite"):
            drawn = _drawn(tensors, held_out, solver)
            if picture is not None:
                draw_pairs(picture, drawn, exported.normalization)
            if evidence is not None:
                write_evidence(evidence, of_pairs(drawn) | maps_kept)
    return Report(run, tuple(results), details)


class _Work:
    """Progress over all of the measurement, in maps or what takes about as long.

    Args:
        tell: as ``progress`` of :func:`verify_export`.
        probed: what the probe does of it.
        rest: what follows the probe.
    """

    def __init__(self, tell: Callable[[int, int], None] | None, probed: int, rest: int) -> None:
        self._tell, self._rest = tell, rest
        self._probed = self._done = probed

    def of_probe(self, done: int, total: int) -> None:
        """What the probe says of its own."""
        if self._tell is not None:
            self._tell(done, total + self._rest if total else 0)

    def add(self, more: int) -> None:
        """So much more is done."""
        self._done += more
        if self._tell is not None:
            self._tell(self._done, self._probed + self._rest)

    def wait(self) -> None:
        """Nothing is done yet; the chance to end it."""
        if self._tell is not None:
            self._tell(0, 0)


def _few_pairs(tensors: Mapping[str, Tensor], path: Path) -> Path | None:
    """Write some of the pairs with their noise for files of other formats; None where there are none."""
    if "seismic" not in tensors:
        return None
    few = {name: tensors[name][:PAIRS_COMPARED] for name in ("x_T", "step_noise", "latent", "velocity", "seismic")}
    few["step_noise"] = few["step_noise"].transpose(0, 1)
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **{name: tensor.numpy() for name, tensor in few.items()})
    return path


def _load(path: Path) -> dict[str, Tensor]:
    return torch.load(path, mmap=True, weights_only=True) if path.is_file() else {}


def _fidelity(exported: Exported, result: Mapping[str, Any], tensors: Mapping[str, Tensor], details: dict) -> Mark:
    """int8 against float: decoders from the same latents, U-Net from the same noised latents."""
    if result.get("unet_step") is None or "reference_seismic" not in tensors:
        why = result.get("error") or _("the file or its float reference gave no pairs")
        return marks.unmeasured("int8_fidelity", marks.MAX_ERROR, why)
    scale = exported.normalization
    generated, reference = tensors["velocity"], tensors["reference_velocity"]
    seismic = seismic_error(tensors["seismic"], tensors["reference_seismic"], scale.seismic)
    details["int8_against_float"] = {
        "velocity_relative_l2": relative_l2(scale.velocity(generated), scale.velocity(reference)),
        "velocity_ssim": ssim(generated, reference, scale.velocity_min, scale.velocity_max),
        "seismic_relative_l2": asdict(seismic),
        "unet_step_relative_l2": result["unet_step"],
        "unet_step_relative_l2_at_time": result["unet_steps"],
        "whole_chain_latent_relative_l2": relative_l2(tensors["latent"], tensors["reference_latent"]),
        "latents": len(generated),
    }
    error = details["int8_against_float"][
        "whole_chain_latent_relative_l2" if exported.distilled else "unet_step_relative_l2"
    ]
    velocity = details["int8_against_float"]["velocity_relative_l2"]
    return marks.int8_fidelity(velocity, seismic.log_normalised, error, exported.engine, exported.distilled)


def _distribution(
    tensors: Mapping[str, Tensor],
    held_out: Pairs,
    train: Pairs,
    error: str | None,
    velocity_limits: tuple[float, float],
    details: dict[str, Any],
    evidence: Evidence,
) -> list[Mark]:
    """Diversity and distance to held-out maps, with floor, ceiling and the ratio int8/float; lattice, variogram."""
    limits = {
        "diversity": marks.MIN_DIVERSITY,
        "beats_noise": marks.MAX_NOISE_RATIO,
        "lattice": marks.MAX_LATTICE,
        "variogram": marks.MAX_VARIOGRAM,
    }
    if "velocity" not in tensors or not bool(torch.isfinite(tensors["velocity"]).all()):
        why = error or _("the file gave no finite maps")
        return [marks.unmeasured(name, limit, why) for name, limit in limits.items()]
    generated = tensors["velocity"]
    real = _sample(held_out, MOST_HELD_OUT)
    diversity_mark, spread = marks.diversity(generated, real, _blocks(train))
    noise_mark, distance, ceiling = marks.beats_noise(tensors["all_velocity"], tensors["all_noise_velocity"], real)
    floor = real_floor(real, _sample(train, MOST_HELD_OUT), count=len(tensors["all_velocity"]))
    details["diversity"] = spread.figures()
    copies = spread.likeliest_copies(NEAREST)
    if copies:
        rows = np.array([spread.nearest_rows[i] for i in copies])
        evidence |= of_copies(generated, spread, copies, train.velocity_batch(rows))
    evidence |= of_maps(tensors["all_velocity"], real, velocity_limits)
    details["sliced_wasserstein"] = {
        "generated": asdict(distance),
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


def _physics(
    solver: WaveEquation | None, tensors: Mapping[str, Tensor], error: str | None, details: dict[str, Any]
) -> Mark:
    """E of the first generated pairs, with the gathers that the file modelled and with its decoder's.

    Against the solver in numpy, which shares no code with the file's.
    """
    if solver is None or "gathers" not in tensors:
        why = error or _("the file modelled no gathers") if solver else _("gathers of this shape cannot be modelled")
        return marks.unmeasured("physics", marks.MAX_PHYSICS_ERROR, why)
    count = len(tensors["gathers"])
    expected, direct = physics_reference(tensors["velocity"][:count].numpy(), solver)
    modelled = physics_errors(tensors["gathers"].numpy(), expected, direct).tolist()
    decoded = physics_errors(tensors["seismic"][:count].numpy(), expected, direct).tolist()
    details["physics"] = {"modelled_gathers": modelled, "decoder_gathers": decoded, "pairs": count}
    return marks.physics(modelled, decoded)


def _drawn(tensors: Mapping[str, Tensor], held_out: Pairs, solver: WaveEquation | None) -> list[Row]:
    """Rows of the picture: generated pairs, then held-out maps with what the decoder makes of their latents."""
    velocity, decoded, modelled = (
        tensors[name][:DRAWN].numpy() if name in tensors else None for name in ("velocity", "seismic", "gathers")
    )
    assert velocity is not None
    rows = rows_of("generated", velocity, solver, decoded, modelled)
    chosen = _drawn_held_out(held_out)
    if len(chosen):
        maps = held_out.velocity_batch(chosen).numpy()
        recorded = held_out.seismic_batch(chosen).numpy() if held_out.has_seismic else None
        decoded = tensors["held_out_seismic"].numpy() if "held_out_seismic" in tensors else None
        rows += rows_of("held out", maps, solver, decoded, recorded=recorded)
    return rows


def _drawn_held_out(held_out: Pairs) -> NDArray[np.int64]:
    """Numbers of the held-out pairs in the picture, spread evenly over the set."""
    return np.linspace(0, len(held_out) - 1, min(DRAWN, len(held_out))).round().astype(np.int64)


def _sample(pairs: Pairs, most: int) -> Tensor:
    """At most ``most`` velocity maps (N, 1, 70, 70), spread evenly over the set."""
    return pairs.velocity_batch(np.linspace(0, len(pairs) - 1, min(len(pairs), most)).round().astype(np.int64))


def _blocks(pairs: Pairs) -> Iterator[Tensor]:
    for start in range(0, len(pairs), BLOCK):
        yield pairs.velocity_batch(np.arange(start, min(start + BLOCK, len(pairs))))
