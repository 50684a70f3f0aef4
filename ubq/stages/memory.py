"""How much memory each training stage takes, from its configuration alone.

The stage's own model and loss run once on fake tensors, which have shapes and no numbers; what autograd
keeps for the backward pass is counted as it is kept. Imports torch only when called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ubq.config.schema import Config, TrainingConfig
from ubq.stages.floatmodel import AUTOENCODER, SEISMIC, UNET, imported

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

PROCESS_BYTES = 400_000_000
"""Python, torch and its kernels before the first tensor."""


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
    from torch._subclasses.fake_tensor import FakeTensorMode

    from ubq.data.normalization import for_config
    from ubq.model import GaussianDiffusion, ModelSizes, UBDiff
    from ubq.quant.generator import Recipe, decoders, deployable
    from ubq.quant.phases import set_phase
    from ubq.quant.prepare import prepare_qat
    from ubq.training.modules import Autoencoder, SeismicBranch
    from ubq.training.tasks import reconstruction_loss

    sizes = ModelSizes.from_dict(config.model.model_dump())
    qat = config.qat
    with torch.device("meta"):
        model, deployed = UBDiff(sizes), UBDiff(sizes)
    diffusion = GaussianDiffusion(sizes.diffusion_steps, sizes.objective)
    recipe = Recipe(sizes, for_config(config.data), config.quant, config.export)
    generator = deployable(deployed, recipe, keep_model=False)
    prepare_qat(generator, config.quant)
    set_phase(generator, "frozen")  # everything fake-quantised: the phase that keeps most

    def velocity(batch: int) -> Tensor:
        return torch.empty(batch, 1, 70, 70)

    def seismic(batch: int) -> Tensor:
        return torch.empty(batch, sizes.sources, sizes.seismic_samples, sizes.receivers)

    def latent(batch: int) -> Tensor:
        return torch.empty(batch, sizes.encoder_dim)

    def noise_loss(unet: nn.Module) -> Callable[[int], Tensor]:
        def loss(batch: int) -> Tensor:
            x = latent(batch)[:, None, :]
            time = torch.zeros(batch, dtype=torch.int64)
            return diffusion.loss(unet, x, time, torch.empty_like(x))

        return loss

    parts = {name: getattr(model, name) for name in (*AUTOENCODER, *SEISMIC, *UNET)}
    autoencoder = Autoencoder(**{name: parts[name] for name in AUTOENCODER})
    branch = SeismicBranch(**{name: parts[name] for name in SEISMIC})
    both = decoders(generator)

    def autoencoder_loss(batch: int) -> Tensor:
        return reconstruction_loss(autoencoder(velocity(batch)), velocity(batch), config.train.autoencoder)

    def seismic_loss(batch: int) -> Tensor:
        return reconstruction_loss(branch(latent(batch)), seismic(batch), config.train.seismic)

    def decoders_loss(batch: int) -> Tensor:
        own = reconstruction_loss(both["velocity"](latent(batch)), velocity(batch), qat.decoders)
        return own + reconstruction_loss(both["seismic"](latent(batch)), seismic(batch), qat.decoders)

    # Fake tensors say they are on the CPU, which autocast and custom kernels ask, and hold nothing.
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in (model, generator, diffusion):
            module.to_empty(device="cpu")
        found: dict[str, StageMemory] = {}
        if not imported(config):
            found["train-autoencoder"] = _memory(autoencoder, autoencoder_loss, config.train.autoencoder)
            found["train-seismic"] = _memory(branch, seismic_loss, config.train.seismic)
            found["train-diffusion"] = _memory(model.unet, noise_loss(model.unet), config.train.diffusion)
        if not config.pretrained.decoder_path:
            found["qat-decoders"] = _memory(both, decoders_loss, qat.decoders)
        found["qat-diffusion"] = _memory(generator.unet, noise_loss(generator.unet), qat.diffusion)
    return found


def _memory(model: nn.Module, loss: Callable[[int], Tensor], settings: TrainingConfig) -> StageMemory:
    parameters = sum(p.nbytes for p in model.parameters())
    buffers = sum(b.nbytes for b in model.buffers())
    part = -(-settings.batch_size // min(settings.accumulate, settings.batch_size))
    return StageMemory(parameters + buffers, 4 * parameters, kept_for_backward(model, lambda: loss(part)))


def kept_for_backward(model: nn.Module, loss: Callable[[], Tensor]) -> int:
    """Bytes that the backward pass of ``loss`` keeps beyond the model's own, and the largest twice for gradients."""
    import torch

    own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # holding them keeps their identities from being used again

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss()
    sizes = [storage.nbytes() for storage in kept.values()]
    return sum(sizes) + 2 * max(sizes, default=0)
