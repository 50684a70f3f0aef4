"""Drawing many pairs from an exported TorchScript file, into files laid out as OpenFWI's."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ubq.config.schema import Family
from ubq.data.families import FAMILIES, SAMPLES_PER_FILE, FileId, Kind
from ubq.errors import UsageError
from ubq.export.manifest import read_facts
from ubq.i18n import gettext as _

MOST_IN_A_BATCH = 32
_MEMORY_SHARE = 0.25
"""Part of the free memory that one batch may take."""


@dataclass(frozen=True)
class ExportedModel:
    """A loaded file and what it says of itself (``ubq.export.manifest.Facts`` as JSON)."""

    path: Path
    model: torch.jit.ScriptModule
    facts: Mapping[str, Any]
    backend: str

    @property
    def default_steps(self) -> int:
        return int(self.model.sampler.steps[0])

    def check_steps(self, steps: int) -> int:
        """The step count to use; 0 is the file's default.

        Raises:
            UsageError: the file does not offer it.
        """
        offered = [int(n) for n in self.model.sampler.steps]
        if steps and steps not in offered:
            raise UsageError(
                _("{path} does not offer {steps} sampling steps").format(path=self.path, steps=steps),
                _("use --steps {offered}, or export again with export.step_choices").format(
                    offered=_(" or ").join(map(str, sorted(offered)))
                ),
            )
        return steps or offered[0]


def load_exported(path: Path, backend: str = "") -> ExportedModel:
    """Load an exported file and leave PyTorch's integer engine set to ``backend``.

    Args:
        path: the ``.pt`` file.
        backend: engine to compute with; empty: the one the file was made for, or, where this machine lacks it, the
            first one it has.

    Raises:
        UsageError: not such a file, or this PyTorch lacks the engine.
    """
    facts = read_facts(path)
    engine = _engine(backend, str(facts["backend"]))
    torch.backends.quantized.engine = engine  # before loading: the weights are packed for it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ExportedModel(path, torch.jit.load(str(path), map_location="cpu"), facts, engine)


def _engine(wanted: str, made_for: str) -> str:
    supported = [e for e in torch.backends.quantized.supported_engines if e != "none"]
    if wanted and wanted not in supported:
        raise UsageError(
            _("this PyTorch has no quantised engine {name}").format(name=wanted),
            _("use --backend {engines}").format(engines=_(" or ").join(supported)),
        )
    return wanted or (made_for if made_for in supported else supported[0])


def fitting_batch(exported: ExportedModel) -> int:
    """Pairs to draw at once so that a batch takes at most a quarter of the free memory."""
    import psutil

    facts, sizes = exported.facts, exported.facts["model"]
    width = (sizes.get("unet_dim") or sizes["encoder_dim"]) * max(sizes["dim_mults"])
    gathers = int(np.prod(facts["seismic_shape"])) + int(np.prod(facts["velocity_shape"]))
    # a gather passes through a handful of float copies; the widest level of the U-Net holds some forty activations
    each = 4 * (6 * gathers + 40 * width * sizes["encoder_dim"] // 2 ** (len(sizes["dim_mults"]) - 1))
    return int(np.clip(_MEMORY_SHARE * psutil.virtual_memory().available / each, 1, MOST_IN_A_BATCH))


def generate(
    exported: ExportedModel, samples: range, steps: int, seed: int, batch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw the pairs of these numbers batch by batch: velocity (B, 1, 70, 70) in m/s, seismic (B, 5, 1000, 70).

    Sample i starts from noise of its own, keyed by (seed, i): asking for more pairs leaves the first ones as they
    are. The same batch size repeats to the bit; another one changes last digits.
    """
    length = int(exported.model.latent_length)
    for start in range(0, len(samples), batch):
        draws = [_noise(seed, i, steps, length) for i in samples[start : start + batch]]
        with torch.no_grad():
            latent = exported.model.sample(
                torch.stack([d[0] for d in draws]), torch.stack([d[1] for d in draws], dim=1), steps
            )
            yield exported.model.decode(latent)


def _noise(seed: int, index: int, steps: int, length: int) -> tuple[Tensor, Tensor]:
    """Start noise (1, L) and step noise (steps-1, 1, L) of one sample."""
    key = int(np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0] >> np.uint64(1))
    generator = torch.Generator().manual_seed(key)
    return torch.randn(1, length, generator=generator), torch.randn(steps - 1, 1, length, generator=generator)


def file_ids(family: Family, count: int) -> list[FileId]:
    """Names for ``count`` pairs, 500 in a file: the first ones of the family's training files.

    Raises:
        UsageError: more pairs than the family has training files for.
    """
    ids = FAMILIES[family].file_ids("train")
    needed = -(-count // SAMPLES_PER_FILE)
    if needed > len(ids):
        raise UsageError(
            _("{family} has file names for {most} pairs, not {count}").format(
                family=family, most=len(ids) * SAMPLES_PER_FILE, count=count
            ),
            _("lower --count, or call ubq sample again with another --seed and --out"),
        )
    return ids[:needed]


def write_pairs(
    exported: ExportedModel,
    out: Path,
    count: int,
    steps: int,
    seed: int,
    batch: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Write generated pairs as OpenFWI lays them out; a file appears only once it is complete.

    Returns:
        The files, velocity and seismic of each 500 pairs in turn.

    Raises:
        UsageError: a file of that name exists.
    """
    facts = exported.facts
    shapes: dict[Kind, tuple[int, ...]] = {
        "velocity": tuple(facts["velocity_shape"]),
        "seismic": tuple(facts["seismic_shape"]),
    }
    ids = file_ids(facts["family"], count)
    targets = [{kind: out / i.relative_path(kind) for kind in shapes} for i in ids]
    for path in (p for target in targets for p in target.values()):
        if path.exists():
            raise UsageError(_("{path} exists").format(path=path), _("give another --out, or remove it"))
    written: list[Path] = []
    done = 0
    for target in targets:
        size = min(SAMPLES_PER_FILE, count - done)
        partial = {kind: path.with_name(f".{path.name}.part") for kind, path in target.items()}
        for path in partial.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            arrays = {
                kind: np.lib.format.open_memmap(partial[kind], "w+", np.float32, (size, *shape))
                for kind, shape in shapes.items()
            }
            row = 0
            for velocity, seismic in generate(exported, range(done, done + size), steps, seed, batch):
                rows = slice(row, row + len(velocity))
                arrays["velocity"][rows], arrays["seismic"][rows] = velocity.numpy(), seismic.numpy()
                row = rows.stop
                progress(done + row, count)
            for kind, array in arrays.items():
                array.flush()
                os.replace(partial[kind], target[kind])
                written.append(target[kind])
        finally:
            for path in partial.values():
                path.unlink(missing_ok=True)
        done += size
    return written
