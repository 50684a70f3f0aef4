"""What is measured: the float model in the way upstream samples it, and its exported int8 file.

Shapes: B batch, L latent length, S diffusion steps, N held-out maps.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ubq.config.load import load_config, read_frozen
from ubq.config.runs import run_command
from ubq.config.schema import ExportConfig, QuantConfig
from ubq.data.normalization import Normalization
from ubq.errors import UsageError
from ubq.export.files import facts_of
from ubq.export.lower.torchscript import engine, write_torchscript
from ubq.export.manifest import read_manifest
from ubq.i18n import gettext as _
from ubq.model import GaussianDiffusion, ModelSizes, UBDiff
from ubq.model.parts import PARTS
from ubq.quant.generator import Generator, Recipe, deployable
from ubq.quant.phases import set_phase
from ubq.quant.prepare import calibrate, prepare_qat
from ubq.runtime.processor import exact_engine
from ubq.runtime.torchscript import TorchScriptGenerator
from ubq.stages.floatmodel import normalization_of, sizes_of, trained_parts
from ubq.stages.maps import open_split
from ubq.stages.paths import RunPaths

GENERATOR_PARTS = tuple(part for part in PARTS if part != "encoder")
MOST_HELD_OUT = 1000
PRESET = "curvefault-a"
"""Whose way of sampling random weights have by default."""
NARROW = {"velocity_latent": 8, "velocity_dims": (4, 4, 8, 8, 16), "seismic_latent": 8, "seismic_samples": 20}
"""Decoders of next to no weight, where the U-Net alone is measured."""


@dataclass(frozen=True)
class FloatModel:
    """The float model as it was trained, sampled the way upstream samples: eager, every diffusion step, ancestral."""

    model: UBDiff
    sizes: ModelSizes
    normalization: Normalization

    @property
    def diffusion(self) -> GaussianDiffusion:
        """The process that it was trained for."""
        return GaussianDiffusion(self.sizes.diffusion_steps, self.sizes.objective, self.sizes.variant)

    def latents(self, x_T: Tensor, step_noise: Tensor) -> Tensor:
        """Ancestral chain from x_T (B, 1, L) with step_noise (S-1, B, 1, L): latents (B, 1, L)."""
        return self.diffusion.sample_ddpm(self.model.unet, x_T, step_noise)

    def pairs(self, count: int) -> tuple[Tensor, Tensor]:
        """Draw pairs: velocity (B, 1, 70, 70) in m/s and gathers (B, 5, 1000, 70)."""
        shape = (count, 1, self.sizes.encoder_dim)
        latent = self.latents(torch.randn(shape), torch.randn(self.sizes.diffusion_steps - 1, *shape)).flatten(1)
        velocity, seismic = self.model(latent)
        return self.normalization.unvelocity(velocity), self.normalization.unseismic(seismic)

    def velocity(self, latent: Tensor) -> Tensor:
        """Latents (B, 1, L) -> maps (B, 1, 70, 70) in m/s."""
        return self.normalization.unvelocity(self.model.decode_velocity(latent.flatten(1)))


@dataclass(frozen=True)
class Subject:
    """A float model and the file exported of it.

    Attributes:
        title: for the head of a table.
        float_model: random weights of the same sizes where the trained ones are not at hand.
        exported: the loaded int8 file.
        held_out: real maps (N, 1, 70, 70), m/s; None where both models are not of one trained run.
    """

    title: str
    float_model: FloatModel
    exported: TorchScriptGenerator
    held_out: Tensor | None = None


def title_of(sizes: ModelSizes) -> str:
    """Widths as they are written everywhere: (512; 1,2,2,2)."""
    return f"({sizes.unet_dim}; {','.join(map(str, sizes.dim_mults))})"


def random_model(sizes: ModelSizes, normalization: Normalization) -> FloatModel:
    """Random weights; the encoder, which is never deployed, holds no memory."""
    with torch.device("meta"):
        model = UBDiff(sizes)
    for part, module in _random_parts(sizes).items():
        setattr(model, part, module)
    return FloatModel(model.eval().requires_grad_(False), sizes, normalization)


def _random_parts(sizes: ModelSizes) -> dict[str, nn.Module]:
    from ubq.model import build_part

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {part: build_part(sizes, part) for part in GENERATOR_PARTS}


def trained_model(run: Path, student: bool = False) -> FloatModel:
    """The float model of a run, as pretrained or imported, or with the U-Net distilled from it.

    Raises:
        StageError: a part has not been trained yet.
    """
    paths = RunPaths(run)
    config = read_frozen(paths.config)
    sizes = sizes_of(config, paths)
    with torch.device("meta"):
        model = UBDiff(sizes)
    for part, module in trained_parts(config, paths, GENERATOR_PARTS, torch.device("cpu"), student).items():
        setattr(model, part, module)
    return FloatModel(model.eval().requires_grad_(False), sizes, normalization_of(config, paths))


def held_out_maps(run: Path) -> Tensor:
    """Held-out velocity maps of a run, (N, 1, 70, 70) m/s, at most ``MOST_HELD_OUT``."""
    paths = RunPaths(run)
    config = read_frozen(paths.config)
    pairs = open_split(config, paths, seismic=False).val
    return pairs.velocity_batch(range(min(len(pairs), MOST_HELD_OUT)))


def subject_of_run(run: Path, backend: str = "") -> Subject:
    """A run that has exported.

    Raises:
        UsageError: it has not, or this PyTorch lacks the engine.
    """
    manifest = RunPaths(run).exported / "manifest.json"
    if not manifest.is_file():
        raise UsageError(
            _("the run {run} has exported no model yet").format(run=run.name),
            _("go on with it: {command}").format(command=run_command("resume", run)),
        )
    exported = TorchScriptGenerator(manifest.with_name(f"{read_manifest(manifest)['name']}.pt"), backend=backend)
    return Subject(f"run {run.name}", trained_model(run), exported, held_out_maps(run))


def subject_of_file(path: Path, backend: str = "") -> Subject:
    """An exported file alone, beside a float model of its sizes with random weights: as fast as the trained one.

    Raises:
        UsageError: not such a file, or this PyTorch lacks the engine.
    """
    exported = TorchScriptGenerator(path, backend=backend)
    sizes = ModelSizes.from_dict(exported.facts["model"])
    ranges = Normalization.from_dict(exported.facts["normalization"])
    return Subject(f"file {path.name}, float with random weights", random_model(sizes, ranges), exported)


def subject_of_sizes(
    sizes: ModelSizes, export: ExportConfig, backend: str, folder: Path, narrow_decoders: bool = False
) -> Subject:
    """Random weights of any size, quantised, calibrated on draws of its own and exported into ``folder``.

    Raises:
        UsageError: this PyTorch lacks the engine.
    """
    if narrow_decoders:
        sizes = ModelSizes.from_dict({**sizes.to_dict(), **NARROW})
    ranges = Normalization(-26.48, 52.32, 1500.0, 4500.0)
    with engine(backend):  # before the minutes that follow
        pass
    recipe = Recipe(sizes, ranges, QuantConfig(backend=backend), export)  # type: ignore[arg-type]
    path = _exported(recipe, folder)
    return Subject(
        f"{title_of(sizes)}, random weights", random_model(sizes, ranges), TorchScriptGenerator(path, backend=backend)
    )


def random_generator(recipe: Recipe) -> Generator:
    """Random weights of a recipe's sizes, calibrated on draws of its own: ready to export."""
    generator = deployable(random_model(recipe.sizes, recipe.normalization).model, recipe, keep_model=False)
    prepare_qat(generator, recipe.quant)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        calibrate(generator, [lambda: generator(1)])
    set_phase(generator.eval(), "frozen")
    return generator


def _exported(recipe: Recipe, folder: Path) -> Path:
    """The file of random weights; the float weights it was made of are gone when this returns."""
    path = folder / "random.pt"
    facts = json.dumps(facts_of(recipe, path.stem, "curvefault-a", quantised=True).to_json())
    write_torchscript(random_generator(recipe), path, recipe.quant.backend, recipe.quant.time_tables, facts)
    return path


def export_config(solver: str, steps: int) -> ExportConfig:
    """The sampler of a file that is exported here; without a solver, that of the files of ``PRESET``."""
    if not solver:
        config = load_config(PRESET, isolated=True).config
        return config.export.distilled(steps or config.distill.steps)
    return ExportConfig(solver=solver, steps=steps)  # type: ignore[arg-type]


def default_backend(backend: str) -> str:
    """The engine asked for, or the fastest that this build of PyTorch has and this processor is exact with."""
    supported = torch.backends.quantized.supported_engines
    return backend or exact_engine(next(name for name in ("x86", "onednn", "qnnpack") if name in supported))
