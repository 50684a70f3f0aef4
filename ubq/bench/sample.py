"""One pair, whole call: the exported int8 file at its default steps against upstream's way.

Upstream's way is the float model, eager, all of its training steps, ancestral (DDPM). Both calls draw their noise and
run both decoders. All of the float steps are run and timed; nothing is extrapolated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from ubq.bench.distance import Quality, quality_of_file
from ubq.bench.subject import Subject, title_of
from ubq.bench.timing import Timing, machine, markdown, take_turns

INT8_CALLS = 5
"""Calls of the file within a round: one alone would be short beside the float call."""


@dataclass(frozen=True)
class SampleResult:
    """What ``ubq bench sample --json`` prints, and more.

    Attributes:
        ratio: float_seconds / int8_seconds.
        float_seconds, int8_seconds: medians of whole calls, batch 1.
        steps: of the file.
        quality: distance to held-out maps against that of the float model; None: random weights, nothing to measure.
    """

    subject: str
    model: str
    machine: str
    threads: int
    backend: str
    solver: str
    steps: int
    float_steps: int
    rounds: int
    ratio: float
    float_seconds: float
    int8_seconds: float
    quality: Quality | None

    def to_dict(self) -> dict[str, object]:
        """As JSON."""
        return asdict(self)

    def to_markdown(self) -> str:
        """The table of ``bench/README.md``."""
        if self.quality is None:
            quality = "not measured: random weights"
        else:
            q = self.quality
            quality = f"{q.ratio:.3f} ({q.lower:.3f} to {q.upper:.3f}), {q.maps} maps"
        row = [
            f"{self.model}, {self.threads} thread{'s' * (self.threads != 1)}",
            f"{self.float_seconds:.2f}",
            f"{self.int8_seconds:.3f}",
            f"{self.solver} {self.steps}",
            f"**{self.ratio:.1f}**",
            quality,
        ]
        header = [
            "one pair",
            f"float, {self.float_steps} steps, s",
            "int8, s",
            "sampler",
            "ratio",
            "distance int8/float",
        ]
        note = f"{self.subject}; engine {self.backend}; medians of {self.rounds} alternating rounds; {self.machine}"
        return f"{markdown(header, [row])}\n\n{note}"


def measure_sample(
    subject: Subject,
    *,
    rounds: int,
    threads: int,
    steps: int = 0,
    maps: int = 256,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SampleResult:
    """Time both ways in turn, and hold the file's maps against the float model's where there are real ones.

    Args:
        subject: what is measured.
        rounds: alternating rounds.
        threads: torch's threads now, for the table.
        steps: of the file; 0: its default.
        maps: generated for the quality; 0 leaves it out.
        seed: of the noise.
        progress: called with (done, total).

    Raises:
        UsageError: the file does not offer ``steps``.
    """
    chosen = subject.exported.check_steps(steps)
    file, model = subject.exported.module, subject.float_model
    sizes = model.sizes
    with torch.no_grad():
        torch.manual_seed(seed)
        file(1, chosen)  # warm-up; of the float model one step is enough
        model.model.unet(torch.randn(1, 1, sizes.encoder_dim), torch.zeros(1, dtype=torch.int64))
        model.model(torch.zeros(1, sizes.encoder_dim))
        timings: dict[str, Timing] = take_turns(
            {"float": lambda: model.pairs(1), "int8": lambda: file(1, chosen)},
            rounds,
            warmup=0,
            repeats={"int8": INT8_CALLS},
            progress=progress,
        )
        quality = quality_of_file(subject, chosen, maps, seed) if maps else None
    return SampleResult(
        subject=subject.title,
        model=title_of(sizes),
        machine=machine(),
        threads=threads,
        backend=subject.exported.backend,
        solver=str(subject.exported.facts["solver"]),
        steps=chosen,
        float_steps=sizes.diffusion_steps,
        rounds=rounds,
        ratio=timings["float"].median / timings["int8"].median,
        float_seconds=timings["float"].median,
        int8_seconds=timings["int8"].median,
        quality=quality,
    )
