"""The memory estimate against what autograd really keeps, and against a process's real peak."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ubq.config.load import load_config
from ubq.config.schema import Config
from ubq.stages.estimate import ALLOCATOR_SHARE, PROCESS_BYTES, kept_for_backward, memory_of

BATCH = 8
FEW = {
    f"{table}.batch_size": BATCH
    for table in ("train.autoencoder", "train.seismic", "train.diffusion", "qat.decoders", "qat.diffusion")
}


@pytest.fixture(scope="module")
def config() -> Config:
    overrides = {**FEW, "model.unet_dim": 16, "model.norm_groups": 8}
    return load_config("smoke", overrides, isolated=True).config


def test_what_a_training_step_keeps_is_counted_without_computing_it(config: Config) -> None:
    import torch

    from ubq.model import GaussianDiffusion, ModelSizes, UBDiff

    sizes = ModelSizes.from_dict(config.model.model_dump())
    model, diffusion = UBDiff(sizes), GaussianDiffusion(sizes.diffusion_steps, sizes.objective)
    velocity, latent = torch.randn(BATCH, 1, 70, 70), torch.randn(BATCH, 1, sizes.encoder_dim)
    settings = config.train.autoencoder

    from ubq.training.tasks import reconstruction_loss

    kept = {
        "train-autoencoder": kept_for_backward(
            [model],
            lambda: reconstruction_loss(model.decode_velocity(model.encode(velocity)), velocity, settings),
        ),
        "train-diffusion": kept_for_backward(
            [model], lambda: diffusion.loss(model.unet, latent, torch.arange(BATCH), torch.randn_like(latent))
        ),
    }
    estimate = memory_of(config)
    for stage, real in kept.items():
        assert estimate[stage].activations == pytest.approx(ALLOCATOR_SHARE * real, rel=0.1), stage


def test_what_fake_quantisation_adds_is_about_what_is_estimated(config: Config) -> None:
    import torch

    from ubq.data.normalization import for_config
    from ubq.model import GaussianDiffusion, ModelSizes, UBDiff
    from ubq.quant.generator import Recipe, decoders, deployable
    from ubq.quant.phases import set_phase
    from ubq.quant.prepare import calibrate, prepare_qat

    sizes = ModelSizes.from_dict(config.model.model_dump())
    generator = deployable(
        UBDiff(sizes), Recipe(sizes, for_config(config.data), config.quant, config.export), keep_model=False
    )
    prepare_qat(generator, config.quant)
    latent, time = torch.randn(BATCH, sizes.encoder_dim), torch.arange(BATCH)
    x, both = latent[:, None, :], decoders(generator)
    calibrate(generator, [lambda: [part(latent) for part in both.values()], lambda: generator.unet(x, time)])
    set_phase(generator, "frozen")
    diffusion = GaussianDiffusion(sizes.diffusion_steps, sizes.objective)
    kept = {
        "qat-decoders": kept_for_backward([both], lambda: sum(part(latent).abs().mean() for part in both.values())),
        "qat-diffusion": kept_for_backward(
            [generator.unet], lambda: diffusion.loss(generator.unet, x, time, torch.randn_like(x))
        ),
    }
    estimate = memory_of(config)
    for stage, real in kept.items():
        assert 0.7 <= estimate[stage].activations / (ALLOCATOR_SHARE * real) <= 1.6, stage


def test_smaller_parts_take_less_and_imports_skip_stages(config: Config) -> None:
    whole = memory_of(config)
    parts = memory_of(
        load_config("smoke", {**FEW, "model.unet_dim": 16, "train.diffusion.accumulate": 4}, isolated=True).config
    )
    assert parts["train-diffusion"].activations < 0.5 * whole["train-diffusion"].activations
    assert parts["train-diffusion"].weights == whole["train-diffusion"].weights
    imported = load_config("smoke", {"pretrained.path": "x.pt", "pretrained.decoder_path": "y.pt"}, isolated=True)
    assert list(memory_of(imported.config)) == ["qat-diffusion"]


def test_full_size_needs_no_memory_to_be_estimated() -> None:
    found = memory_of(load_config("curvefault-a", isolated=True).config)
    unet = found["train-diffusion"]
    assert unet.weights == pytest.approx(3.57e9, rel=0.01)  # 891 M parameters with time conditioning
    assert unet.total > unet.weights + unet.training + PROCESS_BYTES


PEAK = """
import resource, torch
from ubq.config.load import load_config
from ubq.model import GaussianDiffusion, ModelSizes, build_part
from ubq.stages.estimate import memory_of
from ubq.training.ema import WeightAverage
torch.set_num_threads(1)
config = load_config("demo", {"train.diffusion.batch_size": 256}, isolated=True).config
sizes = ModelSizes.from_dict(config.model.model_dump())
unet, diffusion = build_part(sizes, "unet"), GaussianDiffusion(sizes.diffusion_steps, sizes.objective)
optimizer, average = torch.optim.AdamW(unet.parameters(), fused=True), WeightAverage(unet, 0.99)
for _ in range(2):
    x = torch.randn(256, 1, sizes.encoder_dim)
    diffusion.loss(unet, x, torch.zeros(256, dtype=torch.long), torch.randn_like(x)).backward()
    optimizer.step()
    optimizer.zero_grad()
    average.update()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(memory_of(config)["train-diffusion"].total / peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
def test_estimate_is_close_to_a_real_peak() -> None:
    result = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True, timeout=300)
    assert 0.75 <= float(result.stdout) <= 1.4


def test_quantisation_aware_training_takes_batches_of_one() -> None:
    one = load_config("smoke", {"qat.decoders.batch_size": 1, "qat.diffusion.batch_size": 1}, isolated=True).config
    many = load_config("smoke", {"qat.decoders.batch_size": 8, "qat.diffusion.batch_size": 8}, isolated=True).config
    for stage in ("qat-decoders", "qat-diffusion"):
        assert 0 < memory_of(one)[stage].activations < memory_of(many)[stage].activations


def test_a_teacher_counts_as_a_second_set_of_weights(config: Config) -> None:
    alone = memory_of(config)["qat-diffusion"]
    settings = config.qat.diffusion.model_copy(update={"distillation": 0.5})
    taught = config.model_copy(update={"qat": config.qat.model_copy(update={"diffusion": settings})})
    both = memory_of(taught)["qat-diffusion"]
    assert both.total - alone.total == alone.weights
