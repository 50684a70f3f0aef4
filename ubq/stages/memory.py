"""How much memory each training stage takes, from its configuration alone.

The float model and its loss run once on the meta device, which has shapes and no numbers; what autograd
keeps for the backward pass is counted as it is kept. What fake quantisation adds to that is a share, seen
on the layers themselves. Imports torch only when called; a quarter of a second then, at any model size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ubq.config.schema import Config, TrainingConfig
from ubq.stages.floatmodel import AUTOENCODER, DECODERS, SEISMIC, UNET, imported

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

PROCESS_BYTES = 400_000_000
"""Python, torch and its kernels before the first tensor."""
ALLOCATOR_SHARE = 1.3
"""What activations take over what they hold: freed blocks that do not fit, and workspaces of the kernels."""
FAKE_QUANT_SHARE = 1.3
"""Activations with fake quantisation over those without: the masks of what was clamped."""
FAKE_QUANT_WEIGHTS = 1.25
"""Kept for each byte of a layer's weights: the fake-quantised copy and the mask of what was clamped."""


@dataclass(frozen=True)
class StageMemory:
    """Bytes at the peak of a training step.

    Args:
        weights: parameters and buffers.
        training: gradients, AdamW's two moments and the moving average, all float32.
        activations: what the backward pass needs of one part of a batch, and its largest gradients.
    """

    weights: int
    training: int
    activations: int

    @property
    def total(self) -> int:
        """All of them, and the process itself."""
        return self.weights + self.training + self.activations + PROCESS_BYTES


def memory_of(config: Config) -> dict[str, StageMemory]:
    """Memory of every training stage that the configuration has, in their order.

    Sizes are those of ``[model]``; a checkpoint that is imported may have others.
    """
    import torch

    from ubq.model import GaussianDiffusion, ModelSizes, UBDiff
    from ubq.training.tasks import reconstruction_loss

    sizes = ModelSizes.from_dict(config.model.model_dump())
    with torch.device("meta"):
        model = UBDiff(sizes)
    diffusion = GaussianDiffusion(sizes.diffusion_steps, sizes.objective).to("meta")

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

    def of(parts: tuple[str, ...], loss: Callable[[int], Tensor], settings: TrainingConfig, qat: bool) -> StageMemory:
        return _memory([getattr(model, part) for part in parts], loss, settings, qat)

    found: dict[str, StageMemory] = {}
    if not imported(config):
        found["train-autoencoder"] = of(AUTOENCODER, autoencoder, config.train.autoencoder, False)
        found["train-seismic"] = of(SEISMIC, seismic, config.train.seismic, False)
        found["train-diffusion"] = of(UNET, unet, config.train.diffusion, False)
    if not config.pretrained.decoder_path:
        found["qat-decoders"] = of(DECODERS, decoders, config.qat.decoders, True)
    found["qat-diffusion"] = of(UNET, unet, config.qat.diffusion, True)
    if config.qat.diffusion.distillation:  # the float U-Net is there as well
        alone = found["qat-diffusion"]
        found["qat-diffusion"] = replace(alone, weights=2 * alone.weights)
    return found


def _memory(
    modules: list[nn.Module], loss: Callable[[int], Tensor], settings: TrainingConfig, qat: bool
) -> StageMemory:
    parameters = sum(p.nbytes for module in modules for p in module.parameters())
    buffers = sum(b.nbytes for module in modules for b in module.buffers())
    part = -(-settings.batch_size // min(settings.accumulate, settings.batch_size))
    for module in modules:
        module.train(not qat)  # quantisation-aware training has every BatchNorm folded or frozen
    activations = float(kept_for_backward(modules, lambda: loss(part)))
    if qat:
        activations = FAKE_QUANT_SHARE * activations + FAKE_QUANT_WEIGHTS * _copied_bytes(modules)
    return StageMemory(parameters + buffers, 4 * parameters, int(ALLOCATOR_SHARE * activations))


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
    import torch

    own = {t.untyped_storage()._cdata for m in modules for t in (*m.parameters(), *m.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # holding them keeps their identities from being used again

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss()
    sizes = [storage.nbytes() for storage in kept.values()]
    return sum(sizes) + 2 * max(sizes, default=0)
