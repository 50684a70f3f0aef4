"""One measurement of ``ubq.bench.train``: ``python -m ubq.bench.train_process RUN STAGE prepare|plain|ubq STEPS``.

Prints one line of JSON. ``prepare`` makes what earlier stages would have left, with random weights. ``ubq`` is the
stage itself, as ``ubq run`` runs it, stopped after so many steps; ``plain`` a loop around the same model.

Shapes: B batch, L latent length, N samples.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ubq.config.load import read_frozen
from ubq.config.schema import Config, QatTraining, TrainingConfig
from ubq.data.files import data_files
from ubq.distributed import join, rank_info
from ubq.jobs.machine import peak_memory
from ubq.model import GaussianDiffusion
from ubq.model.parts import AUTOENCODER, DECODERS, SEISMIC, UNET
from ubq.quant.generator import decoders
from ubq.quant.phases import set_phase
from ubq.quant.prepare import calibrate
from ubq.stages.autoencoder import TrainAutoencoder
from ubq.stages.base import Stopped
from ubq.stages.device import use_device
from ubq.stages.floatmodel import new_parts, normalization_of, state_of, trained_parts
from ubq.stages.maps import open_maps, sample_ids
from ubq.stages.paths import RunPaths
from ubq.stages.pipeline import PIPELINE
from ubq.stages.qat import qat_generator
from ubq.training.files import save_tensors
from ubq.training.latents import save_latents
from ubq.training.modules import Autoencoder, SeismicBranch
from ubq.training.tasks import reconstruction_loss

CPU = torch.device("cpu")
MB = 1e6
FAR = 1_000_000
"""Steps of a stage that is stopped long before: no validation and no cosine end in what is measured."""
STAGES = {stage.name: stage for stage in PIPELINE if stage.trains}


class Clock:
    """When each step ended, from when the data were opened; of a GPU, when it had done what it was given."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.begin = time.perf_counter()
        self.ends: list[float] = []

    def tick(self) -> None:
        """A step is over."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.ends.append(time.perf_counter() - self.begin)

    def figures(self, before_mb: float) -> dict[str, float]:
        """What ``ubq.bench.train.Figures`` holds beside its key."""
        each = [b - a for a, b in zip(self.ends, self.ends[1:], strict=False)]
        peak = peak_mb(self.device)
        return {
            "first_step": self.ends[0],
            "steps_per_second": 1.0 / statistics.median(each),
            "peak_mb": peak,
            "data_mb": peak - before_mb,
        }


def peak_mb(device: torch.device) -> float:
    """Most memory so far: of the GPU, or resident of the process."""
    return (torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()) / MB


class Context:
    """A stage's context that keeps time and asks to stop after so many steps; nothing is saved."""

    def __init__(self, config: Config, paths: RunPaths, stage: str, steps: int, device: torch.device) -> None:
        self.config, self.paths, self.stage, self.steps = config, paths, stage, steps
        self.store = self
        self.clock = Clock(device)

    def progress(self, step: int, steps: int, **figures: float | str) -> None:
        if "val_loss" not in figures:
            self.clock.tick()

    def stop_requested(self) -> bool:
        return len(self.clock.ends) >= self.steps

    def metrics(self, step: int, **figures: float | str) -> None: ...
    def event(self, kind: str, **fields: object) -> None: ...
    def log(self, message: str) -> None: ...
    def checkpoint_saved(self, step: int) -> None: ...
    def save(self, step: int, payload: object) -> None: ...
    def latest(self) -> None: ...
    def latest_step(self) -> int:
        return 0


def settings_of(config: Config, stage: str) -> TrainingConfig:
    """The stage's table."""
    tables: dict[str, TrainingConfig] = {
        "train-autoencoder": config.train.autoencoder,
        "train-seismic": config.train.seismic,
        "train-diffusion": config.train.diffusion,
        "qat-decoders": config.qat.decoders,
        "qat-diffusion": config.qat.diffusion,
    }
    return tables[stage]


def endless(config: Config) -> Config:
    """The configuration with stages that do not end by themselves, QAT with everything quantised and ranges frozen."""
    train = config.train.model_copy(
        update={
            name: getattr(config.train, name).model_copy(update={"steps": FAR})
            for name in ("autoencoder", "seismic", "diffusion")
        }
    )
    frozen = {"steps": FAR, "warmup": (0.0, 0.0, 0.0)}
    qat = config.qat.model_copy(
        update={name: getattr(config.qat, name).model_copy(update=frozen) for name in ("decoders", "diffusion")}
    )
    run = config.run.model_copy(update={"checkpoint_steps": 0, "checkpoint_minutes": 0.0})
    distill = config.distill.model_copy(update={"steps": 0})
    return config.model_copy(update={"train": train, "distill": distill, "qat": qat, "run": run})


def stand_in(config: Config, paths: RunPaths, stage: str) -> None:
    """What the stages before this one would have left, with random weights."""
    if stage == TrainAutoencoder.name:
        return
    parts = {"autoencoder": AUTOENCODER, "seismic": SEISMIC, "diffusion": UNET}
    made = {name: new_parts(config, paths, p, CPU, name) for name, p in parts.items()}
    for name, modules in made.items():
        save_tensors(paths.checkpoints(f"train-{name}") / f"{name}.pt", state_of(modules))
    train, val = open_maps(config, paths, normalization_of(config, paths), CPU, seismic=False)
    save_latents(made["autoencoder"]["encoder"], {"train": train, "val": val}, paths.latents, sample_ids(paths))


def run_stage(config: Config, paths: RunPaths, stage: str, steps: int, device: torch.device) -> Clock:
    """The stage itself."""
    context = Context(config, paths, stage, steps, device)
    try:
        STAGES[stage].run(context)
    except Stopped:
        return context.clock
    raise AssertionError("the stage ended before it was stopped")


def plain_loop(config: Config, paths: RunPaths, stage: str, steps: int, device: torch.device) -> Clock:
    """Every file loaded whole, normalised at once, the frozen encoder in every step."""
    clock = Clock(device)
    settings, scale = settings_of(config, stage), normalization_of(config, paths)
    velocity = scale.velocity(_whole(config.data.train_velocity, "velocity"))
    seismic = scale.seismic(_whole(config.data.train_seismic, "seismic")) if config.data.train_seismic else None
    model, loss = _plain_task(config, paths, stage, settings, velocity, seismic, device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
    average = [p.detach().clone() for p in parameters]
    rng = torch.Generator().manual_seed(0)
    for _step in range(steps):
        samples = torch.randint(len(velocity), (settings.batch_size,), generator=rng)
        optimizer.zero_grad()
        loss(samples).backward()
        nn.utils.clip_grad_norm_(parameters, settings.grad_clip or math.inf)
        optimizer.step()
        with torch.no_grad():
            for averaged, parameter in zip(average, parameters, strict=True):
                averaged.lerp_(parameter, 1 - settings.ema_decay)
        clock.tick()
    return clock


def _whole(location: str, kind: str) -> Tensor:
    """Every sample of every file, (N, ...) float32."""
    return torch.from_numpy(np.concatenate([np.load(file.path) for file in data_files(location, kind)]))  # type: ignore[arg-type]


def _plain_task(
    config: Config,
    paths: RunPaths,
    stage: str,
    settings: TrainingConfig,
    velocity: Tensor,
    seismic: Tensor | None,
    device: torch.device,
) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """The model of a stage, and its loss for sample numbers (B,)."""

    def maps(samples: Tensor) -> Tensor:
        return velocity[samples].to(device)

    if stage == "train-autoencoder":
        autoencoder = Autoencoder(**new_parts(config, paths, AUTOENCODER, device, stage))
        recipe = config.train.autoencoder
        return autoencoder, lambda s: reconstruction_loss(autoencoder(maps(s)), maps(s), recipe)
    encoder = trained_parts(config, paths, ("encoder",), device)["encoder"]

    @torch.no_grad()
    def latents(samples: Tensor) -> Tensor:
        return encoder(maps(samples)).flatten(1)

    if stage == "train-seismic":
        assert seismic is not None
        branch, target = SeismicBranch(**new_parts(config, paths, SEISMIC, device, stage)), seismic
        return branch, lambda s: reconstruction_loss(branch(latents(s)), target[s].to(device), config.train.seismic)
    if stage == "qat-decoders":
        assert seismic is not None
        generator, _recipe = qat_generator(config, paths, DECODERS, device)
        both, target, qat = decoders(generator), seismic, config.qat.decoders
        _frozen(both, lambda z: [decoder(z) for decoder in both.values()], latents, qat)

        def loss(samples: Tensor) -> Tensor:
            z = latents(samples)
            of_maps = reconstruction_loss(both["velocity"](z), maps(samples), qat)
            return of_maps + reconstruction_loss(both["seismic"](z), target[samples].to(device), qat)

        return both, loss
    sizes = config.model
    diffusion = GaussianDiffusion(sizes.diffusion_steps, sizes.objective, sizes.variant).to(device)

    def diffused(unet: nn.Module) -> Callable[[Tensor], Tensor]:
        def loss(samples: Tensor) -> Tensor:
            z = latents(samples)[:, None]
            times = torch.randint(diffusion.steps, (len(z),), device=device)
            return diffusion.loss(unet, z, times, torch.randn_like(z))

        return loss

    if stage == "train-diffusion":
        unet = new_parts(config, paths, UNET, device, stage)["unet"]
    else:
        unet = qat_generator(config, paths, UNET, device)[0].unet
        first = torch.zeros(config.qat.diffusion.batch_size, dtype=torch.int64, device=device)
        _frozen(unet, lambda z: unet(z[:, None], first), latents, config.qat.diffusion)
    return unet, diffused(unet)


def _frozen(
    model: nn.Module, forward: Callable[[Tensor], object], latents: Callable[[Tensor], Tensor], qat: QatTraining
) -> None:
    """Calibrate as many batches as the stage does, and quantise everything."""
    first = [torch.arange(qat.batch_size) for _batch in range(qat.calibration_batches)]
    calibrate(model, [lambda s=s: forward(latents(s)) for s in first])  # type: ignore[misc]
    set_phase(model, "frozen")


def main(run: Path, stage: str, way: str, steps: int) -> dict[str, float]:
    """The figures of one process."""
    paths = RunPaths(run)
    config = endless(read_frozen(paths.config))
    if rank_info() is not None:
        join(config.device)
    device = use_device(config)
    if way == "prepare":
        stand_in(config, paths, stage)
        return {}
    before = peak_mb(device)
    clock = (run_stage if way == "ubq" else plain_loop)(config, paths, stage, steps, device)
    return clock.figures(before)


if __name__ == "__main__":
    torch.manual_seed(0)
    result = main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
    info = rank_info()
    if info is None or info.rank == 0:
        print(json.dumps(result))
