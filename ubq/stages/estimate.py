"""What a configuration takes before anything runs: memory of each training stage, disk, operations, file size.

Memory: the float model and its loss run once on the meta device, which has shapes and no numbers; what autograd
keeps for the backward pass is counted as it is kept. What fake quantisation adds to that is a share, seen
on the layers themselves. Imports torch only when called; a second then, at any model size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ubq.config.schema import MAP_SHAPE, Config, TrainingConfig
from ubq.model.parts import AUTOENCODER, DECODERS, SEISMIC, UNET
from ubq.stages.floatmodel import imported
from ubq.stages.modelled import wanted_pairs

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ubq.config.schema import ActivationCheckpointing, QuantConfig, Sharding
    from ubq.model import ModelSizes
    from ubq.quant.generator import Generator

PROCESS_BYTES = 400_000_000
"""Python, torch and its kernels before the first tensor."""
ALLOCATOR_SHARE = 1.3
"""What activations take over what they hold: freed blocks that do not fit, and workspaces of the kernels."""
FAKE_QUANT_SHARE = 1.3
"""Activations with fake quantisation over those without: the masks of what was clamped."""
GATHERED_SHARE = 8
"""What a device has whole of a sharded U-Net over the weights it computes with: gradients, and both on their way.

With 8 the estimate is within a fifth of the peak of two CPU processes, with 4 it lacked a fifth (``test_memory.py``).
"""
WITHOUT_GATHERS = ("train-autoencoder", "train-diffusion", "qat-diffusion")
"""Stages that also train on ``data.synth_maps``."""
WITH_MODELLED = ("train-seismic", "qat-decoders")
"""Stages that also train on ``train.seismic.modelled_pairs``."""
CODE_BYTES = 90_000
"""TorchScript code in an exported file, as counted in that of the preset smoke."""
RECORD_BYTES = 190
"""What the archive adds to each tensor: headers and alignment, counted in the same file."""


@dataclass(frozen=True)
class StageMemory:
    """Bytes at the peak of a training step.

    Args:
        weights: parameters and buffers.
        training: gradients, AdamW's two moments and the moving average, all float32.
        activations: what the backward pass needs of one part of a batch, and its largest gradients.
        checkpointed: the same with activation checkpointing; None where the stage does not offer it, or has it.
        gathered: what is whole at a time where the others are spread over devices; 0 where a stage does not offer it.
        shards: devices that weights and training state are spread over.
    """

    weights: int
    training: int
    activations: int
    checkpointed: int | None = None
    gathered: int = 0
    shards: int = 1

    @property
    def held(self) -> int:
        """Weights between two steps, on one device."""
        return -(-self.weights // self.shards)

    @property
    def total(self) -> int:
        """All of them, and the process itself, on one device."""
        gathered = self.gathered if self.shards > 1 else 0
        return self.held - (-self.training // self.shards) + gathered + self.activations + PROCESS_BYTES

    @property
    def checkpoint(self) -> int:
        """Size of a checkpoint: weights, their average and the optimiser's two moments."""
        return self.weights + self.training * 3 // 4

    def on(self, setting: ActivationCheckpointing, available: int) -> StageMemory:
        """As the stage is trained, by ``run.activation_checkpointing``, where so many bytes are available."""
        if self.checkpointed is None or setting == "off" or (setting == "auto" and self.total <= available):
            return self
        return replace(self, activations=self.checkpointed, checkpointed=None)

    def sharded(
        self, distributed: Sharding, checkpointing: ActivationCheckpointing, available: int, devices: int
    ) -> StageMemory:
        """As the stage is trained, by ``distributed.shard``, on devices of so many bytes.

        Args:
            checkpointing: ``run.activation_checkpointing``, which saves memory first.
        """
        if devices == 1 or not self.gathered or distributed == "off":
            return self
        if distributed == "auto" and self.on(checkpointing, available).total <= available:
            return self
        return replace(self, shards=devices)


def memory_on(config: Config, available: int) -> dict[str, StageMemory]:
    """:func:`memory_of` every stage as it is trained where so many bytes are available."""
    setting = config.run.activation_checkpointing
    return {name: needed.on(setting, available) for name, needed in memory_of(config).items()}


def memory_of(
    config: Config, sizes: ModelSizes | None = None, devices: int = 1, stage: str = ""
) -> dict[str, StageMemory]:
    """Memory of every training stage that the configuration has, in their order, on one device.

    Args:
        config: decides stages, batches and how they are trained.
        sizes: of the model; None: those of ``[model]``, though a checkpoint that is imported may have others.
        devices: that share each part of a batch.
        stage: the only one that is asked for.
    """
    import torch

    from ubq.model import GaussianDiffusion, ModelSizes, UBDiff
    from ubq.quant.generator import Sampler
    from ubq.training.distill import way_of
    from ubq.training.tasks import reconstruction_loss

    sizes = sizes or ModelSizes.from_dict(config.model.model_dump())
    with torch.device("meta"):
        model = UBDiff(sizes)
    diffusion = GaussianDiffusion(sizes.diffusion_steps, sizes.objective).to("meta")
    sampler = Sampler(sizes.diffusion_steps, sizes.objective, config.sampling, bool(config.distill.steps)).to("meta")

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta")

    def velocity_loss(batch: int, latent: Tensor) -> Tensor:
        return reconstruction_loss(model.decode_velocity(latent), empty(batch, 1, 70, 70), config.train.autoencoder)

    def autoencoder(batch: int) -> Tensor:
        return velocity_loss(batch, model.encode(empty(batch, 1, 70, 70)))

    def seismic(batch: int) -> Tensor:
        gathers = empty(batch, sizes.sources, sizes.seismic_samples, sizes.receivers)
        return reconstruction_loss(model.decode_seismic(empty(batch, sizes.encoder_dim)), gathers, config.train.seismic)

    def decoders(batch: int) -> Tensor:
        return velocity_loss(batch, empty(batch, sizes.encoder_dim)) + seismic(batch)

    def unet(batch: int) -> Tensor:
        x = empty(batch, 1, sizes.encoder_dim)
        time = torch.zeros(batch, dtype=torch.int64, device="meta")
        return diffusion.loss(model.unet, x, time, torch.empty_like(x))

    def chain(batch: int) -> Tensor:
        return way_of(model.unet, sampler, empty(batch, 1, sizes.encoder_dim))[0].square().mean()

    def stage_memory(
        parts: tuple[str, ...], loss: Callable[[int], Tensor], settings: TrainingConfig, qat: bool
    ) -> StageMemory:
        modules = [getattr(model, part) for part in parts]
        part = -(-settings.batch_size // min(settings.accumulate, settings.batch_size))
        if devices > 1:  # of one sample BatchNorm takes no statistics; with others' it does
            part = max(2, -(-part // devices))
        for module in modules:
            module.train(not qat)  # quantisation-aware training has every BatchNorm folded or frozen
        parameters = sum(p.nbytes for module in modules for p in module.parameters())
        buffers = sum(b.nbytes for module in modules for b in module.buffers())
        activations = _activations(modules, lambda: loss(part), qat)
        checkpointed, gathered = None, 0
        if parts == UNET:  # of several evaluations only one is there at a time
            checkpointed = _checkpointed_activations(model.unet, lambda: unet(part), qat)
            gathered = _gathered(model.unet)
        return StageMemory(parameters + buffers, 4 * parameters, activations, checkpointed, gathered)

    chained = bool(config.distill.steps)
    plans: dict[str, Callable[[], StageMemory]] = {}
    if not imported(config):
        train = config.train
        plans["train-autoencoder"] = lambda: stage_memory(AUTOENCODER, autoencoder, train.autoencoder, False)
        plans["train-seismic"] = lambda: stage_memory(SEISMIC, seismic, train.seismic, False)
        plans["train-diffusion"] = lambda: stage_memory(UNET, unet, train.diffusion, False)
    if chained:
        plans["distill"] = lambda: stage_memory(UNET, chain, config.distill.training, False)
    if not config.pretrained.decoder_path:
        plans["qat-decoders"] = lambda: stage_memory(DECODERS, decoders, config.qat.decoders, True)
    plans["qat-diffusion"] = lambda: stage_memory(UNET, chain if chained else unet, config.qat.diffusion, True)
    memory = {name: plan() for name, plan in plans.items() if not stage or name == stage}
    if config.qat.diffusion.distillation and not chained and "qat-diffusion" in memory:  # beside the float U-Net
        alone = memory["qat-diffusion"]
        memory["qat-diffusion"] = replace(alone, weights=2 * alone.weights)
    return memory


def _gathered(unet: nn.Module) -> int:
    """Most bytes of what a device has whole at a time of a sharded U-Net: a block, what is around it, gradients."""
    from ubq.training.sharding import units_of

    own: dict[nn.Module, int] = {}
    for unit in units_of(unet):  # the inner before the outer
        inside = sum(own.get(module, 0) for module in unit.modules())
        own[unit] = sum(p.nbytes for p in unit.parameters()) - inside
    around = {unit: set(unit.modules()) for unit in own}
    return GATHERED_SHARE * max(sum(own[outer] for outer in own if unit in around[outer]) for unit in own)


def _activations(modules: list[nn.Module], loss: Callable[[], Tensor], qat: bool) -> int:
    held = ALLOCATOR_SHARE * kept_for_backward(modules, loss)
    return int(FAKE_QUANT_SHARE * held + _copied_bytes(modules) if qat else held)


def _checkpointed_activations(unet: nn.Module, loss: Callable[[], Tensor], qat: bool) -> int:
    """The inputs of all blocks and what is kept between them, and the largest block itself."""
    import torch

    from ubq.training.checkpointing import blocks_of, wrapped

    outside = _Kept([unet])
    inside: list[int] = []

    def measured(forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Tensor) -> Any:
            for tensor in arguments:
                outside.keep(tensor)
            block = _Kept([unet])
            with block.counting():
                output = forward(*arguments)
            inside.append(block.bytes)
            return output

        return call

    blocks = blocks_of(unet)
    with torch.device("meta"), wrapped(blocks, measured), outside.counting():
        loss()
    share = FAKE_QUANT_SHARE if qat else 1.0
    held = ALLOCATOR_SHARE * (outside.bytes + share * max(inside) + 2 * outside.largest)
    if not qat:
        return int(held)
    copies = [_copied_bytes([block]) for block in blocks]
    return int(held + _copied_bytes([unet]) - sum(copies) + max(copies))


def _copied_bytes(modules: list[nn.Module]) -> int:
    """Bytes of the weights whose fake-quantised copies are kept; those of the largest linears are computed again."""
    from torch import nn

    from ubq.quant.layers import RECOMPUTE_ABOVE

    leaves = [leaf for module in modules for leaf in module.modules()]
    convolutions = [leaf.weight for leaf in leaves if isinstance(leaf, nn.modules.conv._ConvNd)]
    linears = [leaf.weight for leaf in leaves if isinstance(leaf, nn.Linear)]
    return sum(w.nbytes for w in (*convolutions, *(w for w in linears if w.numel() <= RECOMPUTE_ABOVE)))


def kept_for_backward(modules: list[nn.Module], loss: Callable[[], Tensor]) -> int:
    """Bytes that the backward pass of ``loss`` keeps beyond the modules' own, and the largest twice for gradients."""
    counter = _Kept(modules)
    with counter.counting():
        loss()
    return counter.bytes + 2 * counter.largest


class _Kept:
    """The tensors that a backward pass keeps, beyond the modules' own; each storage once."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._own = {t.untyped_storage()._cdata for m in modules for t in (*m.parameters(), *m.buffers())}
        # holding them keeps their identities from being used again
        self._kept: dict[int, torch.UntypedStorage] = {}

    def keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._own:
            self._kept[storage._cdata] = storage
        return tensor

    def counting(self) -> AbstractContextManager[None]:
        """Count what is kept of what is computed in the block."""
        import torch

        return torch.autograd.graph.saved_tensors_hooks(self.keep, lambda tensor: tensor)

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self._kept.values())

    @property
    def largest(self) -> int:
        return max((storage.nbytes() for storage in self._kept.values()), default=0)


def disk_needed(config: Config, names: Sequence[str], memory: Mapping[str, StageMemory]) -> int:
    """Most bytes that the stages will have on disk at a time: final files, and the checkpoints of the stage at work.

    One checkpoint more than is kept lies there while the next is written; all go once the stage is complete.

    Args:
        names: the stages.
        memory: of every training stage, also of those that are done.
    """
    weights = {name: memory[name].weights for name in ("qat-decoders", "qat-diffusion") if name in memory}
    model = config.model
    map_bytes = 4 * math.prod(MAP_SHAPE)
    pair_bytes = map_bytes + 4 * model.sources * model.seismic_samples * model.receivers
    synthetic = config.data.synth_samples * pair_bytes + config.data.synth_maps * map_bytes
    final = {name: needed.weights for name, needed in memory.items()}
    final["prepare"] = 0 if config.data.train_velocity else synthetic
    final["model-pairs"] = wanted_pairs(config) * (pair_bytes + 4 * model.encoder_dim)
    final["import"] = sum(weights.values())
    final["qat-diffusion"] = sum(weights.values())  # the whole generator
    final["export"] = sum(weights.values()) * 5 // 4  # the float reference and the int8 file
    most = stored = 0
    for name in names:
        size, count = (memory[name].checkpoint, _checkpoints(config, name)) if name in memory else (0, 0)
        final_size = final.get(name, 0)
        most = max(most, stored + count * size, stored + min(count, config.run.keep_checkpoints) * size + final_size)
        stored += final_size
    return most


def _checkpoints(config: Config, stage: str) -> int:
    """Most checkpoints of a stage that are there at a time."""
    from ubq.stages.settings import training_of

    training, run = training_of(config, stage), config.run
    assert training is not None
    if run.checkpoint_minutes or not training.steps:
        return run.keep_checkpoints + 1
    made = 1 + (training.steps // run.checkpoint_steps if run.checkpoint_steps else 0)
    return min(made, run.keep_checkpoints + 1)


def estimate(config: Config, names: Sequence[str], available: int = 0) -> dict[str, Any]:
    """What a configuration takes.

    Args:
        names: its stages.
        available: bytes of memory that there are; 0: unknown, and what can be spared is spared.

    Returns:
        ``memory``: peak bytes by training stage; ``file_bytes``: the exported file; ``operations``: float32
        operations of all training; ``pairs``: to be modelled; ``disk``: most bytes of those stages. Backward costs
        twice the forward pass, two operations a multiply-accumulate; the encoder what the velocity decoder does,
        whose mirror it is.
    """
    from ubq.quant.analysis import count_model
    from ubq.quant.generator import part_of
    from ubq.stages.settings import training_of

    generator = deployed(config)
    layers = [(part_of(layer.name), layer) for layer in count_model(generator, config.quant).layers]
    macs = {part: sum(layer.macs for name, layer in layers if name == part) for part in dict(layers)}
    distill = config.distill
    by_stage = {
        "train-autoencoder": 2 * macs["velocity"],
        "train-seismic": macs["seismic"],
        "train-diffusion": macs["diffusion"],
        "distill": distill.steps * macs["diffusion"],
        "qat-decoders": macs["velocity"] + macs["seismic"],
        "qat-diffusion": max(1, distill.steps) * macs["diffusion"],
    }
    needed = memory_on(config, available)
    memory = {name: stage.total for name, stage in needed.items()}
    samples, operations = training_samples(config), 0.0
    beside = dict.fromkeys(WITHOUT_GATHERS, 0 if has_data(config) else config.data.synth_maps)
    beside |= dict.fromkeys(WITH_MODELLED, wanted_pairs(config))
    for stage in memory:
        training = training_of(config, stage)
        assert training is not None
        samples_per_epoch = samples + beside.get(stage, 0)
        if stage == "qat-diffusion" and distill.steps:
            samples_per_epoch = distill.trajectories
        operations += 6 * by_stage[stage] * samples_seen(training, samples_per_epoch)
    if distill.steps:  # the teacher, forward alone
        operations += 2.0 * macs["diffusion"] * distill.teacher_steps * distill.trajectories
    return {
        "memory": memory,
        "file_bytes": file_bytes(generator, config.quant),
        "disk": disk_needed(config, names, needed),
        "operations": operations,
        "pairs": (0 if has_data(config) else config.data.synth_samples) + wanted_pairs(config),
    }


LAYOUTS = (1, 2, 4, 8)
"""Numbers of devices that a table of memory is for."""


def layouts(config: Config, names: Sequence[str]) -> dict[str, Any]:
    """What each device of a data-parallel training needs, and the disk.

    Args:
        config: of the run.
        names: its stages.

    Returns:
        ``devices``: by their number, bytes of the hungriest stage ``plain``, with activation checkpointing
        (``least``) and with the U-Net spread over them besides (``sharded``), and that ``stage``;
        ``checkpoint``: the largest one; ``disk``: of a whole run.
    """
    devices: dict[int, dict[str, object]] = {}
    for count in LAYOUTS:
        memory = memory_of(config, devices=count)
        stage = max(memory, key=lambda name: memory[name].total)
        least = max(needed.on("on", 0).total for needed in memory.values())
        sharded = max(needed.sharded("on", "on", 0, count).on("on", 0).total for needed in memory.values())
        devices[count] = {"stage": stage, "plain": memory[stage].total, "least": least, "sharded": sharded}
    largest = max(needed.checkpoint for needed in memory.values())
    return {"devices": devices, "checkpoint": largest, "disk": disk_needed(config, names, memory)}


def deployed(config: Config) -> Generator:
    """The fake-quantised generator of a configuration, without memory for its weights."""
    import torch

    from ubq.data.normalization import for_config
    from ubq.model import ModelSizes, UBDiff
    from ubq.quant.generator import Recipe, deployable
    from ubq.quant.prepare import prepare_qat

    sizes = ModelSizes.from_dict(config.model.model_dump())
    with torch.device("meta"):
        model = UBDiff(sizes)
    generator = deployable(model, Recipe(sizes, for_config(config.data), config.quant, config.export), keep_model=False)
    prepare_qat(generator, config.quant)
    return generator


def file_bytes(generator: Generator, quant: QuantConfig) -> int:
    """Size of the TorchScript file that a generator becomes.

    PyTorch packs an int8 weight with a float64 scale and an int64 zero point for each output channel (one of each
    for a whole tensor with the scheme ``default``) and a float32 bias: of a small model's seismic head, with few
    inputs and 350,000 outputs, these are the larger part.
    """
    from ubq.quant.generator import with_time_tables
    from ubq.quant.layers import QuantLayer

    if quant.time_tables:
        generator = with_time_tables(generator)
    total = CODE_BYTES

    def count(module: nn.Module) -> None:
        nonlocal total
        if isinstance(module, QuantLayer):  # its observers become numbers in the code
            grids = len(module.weight) if module.per_channel else 1
            total += module.weight.numel() + 16 * grids + (0 if module.bias is None else 4 * len(module.bias))
            total += (5 if module.per_channel else 3) * RECORD_BYTES
            return
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            total += tensor.numel() * tensor.element_size() + RECORD_BYTES
        for child in module.children():
            count(child)

    count(generator)
    return total


def has_data(config: Config) -> bool:
    """Whether the run reads a data set, given already or still asked for."""
    return bool(config.data.train_velocity) or not config.data.synth_samples


def training_samples(config: Config) -> int:
    """Training pairs: those to synthesise, or those of the official split."""
    from ubq.data.families import FAMILIES, SAMPLES_PER_FILE

    if has_data(config):
        return len(FAMILIES[config.data.family].file_ids("train")) * SAMPLES_PER_FILE
    return config.data.synth_samples


def samples_seen(training: TrainingConfig, samples: int) -> int:
    """Samples that a stage trains on, repeats counted."""
    if training.steps:
        return training.steps * training.batch_size
    return training.epochs * samples
