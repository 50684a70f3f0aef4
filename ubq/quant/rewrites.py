"""Rewrites of the float model that change nothing but which kernels can run it.

Each is exact in real arithmetic and happens in place; together they leave only Conv2d and Linear
as weight layers, which have integer kernels on every engine.

Shapes: B batch, I input channels, O output channels, C channels, L length of a U-Net level.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ubq.model.layers import ConvBlock, Projector
from ubq.model.seismic import SeismicDecoder
from ubq.model.unet import ResidualBlock, UNet
from ubq.model.velocity import VelocityDecoder
from ubq.quant.layers import conv2d_of

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


class FrozenBatchNorm(nn.Module):
    """A BatchNorm that was not folded: always its running statistics, also while the rest trains."""

    def __init__(self, norm: BatchNorm) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        return torch.batch_norm(
            x, self.weight, self.bias, self.running_mean, self.running_var, False, 0.0, self.eps, False
        )


class PointTransposed(nn.Module):
    """A transposed convolution whose input is 1 x 1: a Linear to (O, K, K)."""

    def __init__(self, linear: nn.Module, channels: int, kernel: int) -> None:
        super().__init__()
        self.linear, self.channels, self.kernel = linear, channels, kernel

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, 1, 1) -> (B, O, K, K)."""
        return self.linear(x.flatten(1)).reshape(-1, self.channels, self.kernel, self.kernel)


class ShuffledTransposed(nn.Module):
    """A transposed convolution of kernel 4, stride 2, padding 1: a 2 x 2 convolution to 4 O channels, rearranged.

    Output pixel 2m + a depends on two input pixels per axis only; counting from one pixel further
    out, both phases a read the same 2 x 2 window, so no multiplication is wasted on zeros.
    """

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, 2H, 2W)."""
        return self.shuffle(self.conv(x))[:, :, 1:-1, 1:-1]


class Tanh(nn.Module):
    """2 sigmoid(2x) - 1, to about 1e-7, by an operator that repeats from the first call on.

    PyTorch's own tanh is MKL's on x86 (``ubq.stages.device.settle_vector_math``), and an exported file runs in
    processes that nobody has prepared.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same."""
        return 2.0 * torch.sigmoid(2.0 * x) - 1.0


class AddHeight(nn.Module):
    """The U-Net's first convolution, from (B, 1, L) to (B, C, 1, L)."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, L) -> (B, C, 1, L)."""
        return self.conv(x.unsqueeze(2))


class DropHeight(nn.Module):
    """The U-Net's last convolution, back to (B, 1, L)."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 1, L) -> (B, 1, L)."""
        return self.conv(x).squeeze(2)


class TimeRows(nn.Module):
    """In place of the time embedding: the row of a time step in every block's table."""

    def __init__(self, times: Tensor, diffusion_steps: int) -> None:
        super().__init__()
        rows = torch.full((diffusion_steps,), -1, dtype=torch.int64, device=times.device)
        rows[times] = torch.arange(len(times), device=times.device)
        self.rows: Tensor
        self.register_buffer("rows", rows)

    def forward(self, time: Tensor) -> Tensor:
        """Time steps (B,) -> rows (B,)."""
        return self.rows.index_select(0, time)


class TimeTable(nn.Module):
    """In place of a block's time MLP: its outputs at the sampler's time steps, (N, 2C)."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values: Tensor
        self.register_buffer("values", values)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (B,) -> (B, 2C). A time step without a row raises an IndexError."""
        return self.values.index_select(0, rows)


def drop_unused(unet: UNet, seismic_decoder: SeismicDecoder) -> None:
    """Drop weights that no output depends on: the fork's time embedding, upstream's classifier head."""
    if not unet.time_conditioned:
        unet.add_module("time_mlp", nn.Identity())
    seismic_decoder.add_module("unused_head", nn.Identity())


@torch.no_grad()
def fold_batchnorms(module: nn.Module) -> None:
    """Fold the BatchNorm of every block below ``module`` into the weight layer before it."""
    for block in module.modules():
        if isinstance(block, ConvBlock | Projector) and isinstance(block.norm, BatchNorm):
            layer = block.conv if isinstance(block, ConvBlock) else block.linear
            _fold(layer, block.norm)
            block.add_module("norm", nn.Identity())


def replace_tanh(module: nn.Module) -> None:
    """Replace the tanh of every block below ``module``."""
    for block in module.modules():
        if isinstance(block, ConvBlock) and isinstance(block.activation, nn.Tanh):
            block.add_module("activation", Tanh())


def freeze_batchnorms(module: nn.Module) -> None:
    """Keep every BatchNorm below ``module``, with the statistics it has."""
    for block in module.modules():
        if isinstance(block, ConvBlock | Projector) and isinstance(block.norm, BatchNorm):
            block.add_module("norm", FrozenBatchNorm(block.norm))


def _fold(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, norm: BatchNorm) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    shape = [1] * layer.weight.dim()
    shape[axis] = -1
    bias = torch.zeros_like(norm.running_mean) if layer.bias is None else layer.bias
    folded = (bias.double() - norm.running_mean.double()) * gain + norm.bias.double()
    layer.weight = nn.Parameter((layer.weight.double() * gain.reshape(shape)).to(layer.weight.dtype))
    layer.bias = nn.Parameter(folded.to(layer.weight.dtype))


@torch.no_grad()
def convert_conv1d(unet: UNet) -> None:
    """Replace every Conv1d (k) of the U-Net by a Conv2d (1, k) with the same weights.

    Outside, latents stay (B, 1, L); inside they are (B, C, 1, L).
    """
    for parent in list(unet.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv1d):
                parent.add_module(name, _conv2d(child))
    unet.add_module("init_conv", AddHeight(unet.init_conv))
    unet.add_module("final_conv", DropHeight(unet.final_conv))


def _conv2d(conv: nn.Conv1d) -> nn.Conv2d:
    assert isinstance(conv.padding, tuple)
    return conv2d_of(
        nn.Parameter(conv.weight.unsqueeze(2)),
        conv._parameters["bias"],
        (1, conv.stride[0]),
        (0, conv.padding[0]),
        (1, conv.dilation[0]),
        conv.groups,
    )


@torch.no_grad()
def convert_transposed(decoder: VelocityDecoder) -> None:
    """Replace the transposed convolutions of the velocity decoder by what has integer kernels."""
    for i, block in enumerate(decoder.blocks):
        assert isinstance(block, ConvBlock)
        if isinstance(block.conv, nn.ConvTranspose2d):
            # the first one sees a 1 x 1 input
            replaced = _point(block.conv) if i == 0 else _shuffled(block.conv)
            block.add_module("conv", replaced)


def _point(conv: nn.ConvTranspose2d) -> PointTransposed:
    kernel = conv.kernel_size[0]
    if conv.kernel_size != (kernel, kernel) or conv.padding != (0, 0) or conv.output_padding != (0, 0):
        raise ValueError(f"{conv} on a 1 x 1 input is not a Linear to its kernel's size")
    inputs, outputs = conv.in_channels, conv.out_channels * kernel**2
    with torch.device("meta"):
        linear = nn.Linear(inputs, outputs)
    linear.weight = nn.Parameter(conv.weight.reshape(inputs, outputs).t().contiguous())
    linear.bias = nn.Parameter(_bias(conv).repeat_interleave(kernel**2))
    return PointTransposed(linear, conv.out_channels, kernel)


def _shuffled(conv: nn.ConvTranspose2d) -> ShuffledTransposed:
    if (conv.kernel_size, conv.stride, conv.padding, conv.output_padding) != ((4, 4), (2, 2), (1, 1), (0, 0)):
        raise ValueError(f"{conv} is not of kernel 4, stride 2, padding 1")
    weight = shuffled_kernel(conv.weight)
    bias = _bias(conv).repeat_interleave(4)
    return ShuffledTransposed(conv2d_of(nn.Parameter(weight.contiguous()), nn.Parameter(bias), padding=(1, 1)))


def shuffled_kernel(kernel_IO44: Tensor) -> Tensor:
    """A transposed kernel of stride 2 as the kernel (4 O, I, 2, 2) of ``ShuffledTransposed``."""
    inputs, outputs = kernel_IO44.shape[:2]
    # taps of the transposed kernel that the two pixels of the window meet, for each phase of the shuffle
    taps = torch.tensor([[2, 0], [3, 1]], device=kernel_IO44.device)
    weight = kernel_IO44[:, :, taps[:, None, :, None], taps[None, :, None, :]]  # (I, O, 2, 2, 2, 2)
    return weight.permute(1, 2, 3, 0, 4, 5).reshape(4 * outputs, inputs, 2, 2)


def kernel_of_shuffled(weight: Tensor) -> Tensor:
    """The inverse of ``shuffled_kernel``: (4 O, I, 2, 2) -> (I, O, 4, 4)."""
    outputs, inputs = len(weight) // 4, weight.shape[1]
    phases = weight.reshape(outputs, 2, 2, inputs, 2, 2).flip(4, 5)  # tap 2 a + p of phase p, the far pixel first
    return phases.permute(3, 0, 4, 1, 5, 2).reshape(inputs, outputs, 4, 4)


def _bias(conv: nn.ConvTranspose2d) -> Tensor:
    return conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()


@torch.no_grad()
def tabulate_time(unet: UNet, times: Tensor, diffusion_steps: int) -> None:
    """Replace the time embedding and every block's time MLP by tables.

    Args:
        unet: a U-Net that still has its MLPs; the fork's variant has nothing to replace.
        times: distinct time steps that a sampler visits, (N,) int64, on any device.
        diffusion_steps: steps of the training process.
    """
    if not unet.time_conditioned:
        return
    times = times.to(next(unet.parameters()).device)
    embedding = unet.time_mlp(times)
    for block in unet.modules():
        if isinstance(block, ResidualBlock):
            block.add_module("mlp", TimeTable(block.mlp(embedding)))
    unet.add_module("time_mlp", TimeRows(times, diffusion_steps))
