"""One-dimensional diffusion U-Net over the latent, in both upstream variants.

Shapes: B batch, C channels, L length of a level, T time-embedding width, H heads, D channels of a
head. The forward code takes (B, C, L), and (B, C, 1, L) once the Conv1d leaves are replaced by
Conv2d ones: normalisation acts on dim 1, attention flattens what follows it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

THETA = 10000.0
"""Longest over shortest period of the time embedding (Vaswani et al. 2017)."""


class SinusoidalEmbedding(nn.Module):
    """Sines and cosines of the time step, width ``dim``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.half_dim = dim // 2
        self.rate = math.log(THETA) / (self.half_dim - 1)

    def forward(self, time: Tensor) -> Tensor:
        """(B,) -> (B, dim)."""
        frequencies = torch.exp(torch.arange(self.half_dim, device=time.device) * -self.rate)
        phase = time.unsqueeze(1) * frequencies.unsqueeze(0)
        return torch.cat((phase.sin(), phase.cos()), dim=-1)


SMALLEST_SQUARE = 1e-24
"""Of a position's norm, below which it is not scaled up: the square of ``torch.nn.functional.normalize``'s."""


class RMSNorm(nn.Module):
    """Scale each position to unit root-mean-square over the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1))
        self.scale = channels**0.5
        self.smallest_square: float = SMALLEST_SQUARE

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ..., L) -> the same shape."""
        g = self.g if x.dim() == 3 else self.g.unsqueeze(-1)
        return self.to_unit(x) * (g * self.scale)

    def to_unit(self, x: Tensor) -> Tensor:
        """Each position over its norm. On CPU a norm along the channels, ``normalize``'s, takes longer."""
        return x * x.square().sum(1, keepdim=True).clamp_min(self.smallest_square).rsqrt()


class LinearAttention(nn.Module):
    """Attention of linear cost in L (Shen et al. 2021): softmax over channels for q, over positions for k."""

    def __init__(self, channels: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads, self.dim_head = heads, dim_head
        self.scale = dim_head**-0.5
        self.to_qkv = _conv(channels, 3 * heads * dim_head, 1, bias=False)
        self.to_out = _conv(heads * dim_head, channels, 1)
        self.out_norm = RMSNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ..., L) -> the same shape."""
        qkv = self.to_qkv(x)
        heads = qkv.reshape(qkv.shape[0], 3, self.heads, self.dim_head, -1)  # (B, 3, H, D, L)
        q, k, v = heads.unbind(1)  # three slices would each get a gradient of the whole
        context = torch.matmul(k.softmax(dim=-1), v.transpose(-2, -1))  # (B, H, D, D)
        out = torch.matmul(context.transpose(-2, -1), q.softmax(dim=-2) * self.scale)
        return self.out_norm(self.to_out(out.reshape(qkv[:, : self.heads * self.dim_head].shape)))


class FullAttention(nn.Module):
    """Softmax attention over the positions of the lowest level."""

    def __init__(self, channels: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads, self.dim_head = heads, dim_head
        self.scale = dim_head**-0.5
        self.to_qkv = _conv(channels, 3 * heads * dim_head, 1, bias=False)
        self.to_out = _conv(heads * dim_head, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ..., L) -> the same shape."""
        qkv = self.to_qkv(x)
        heads = qkv.reshape(qkv.shape[0], 3, self.heads, self.dim_head, -1)  # (B, 3, H, D, L)
        q, k, v = heads.unbind(1)  # three slices would each get a gradient of the whole
        weights = torch.matmul((q * self.scale).transpose(-2, -1), k).softmax(dim=-1)  # (B, H, L, L)
        out = torch.matmul(v, weights.transpose(-2, -1))
        return self.to_out(out.reshape(qkv[:, : self.heads * self.dim_head].shape))


class ResidualAttention(nn.Module):
    """x + attention(norm(x))."""

    def __init__(self, norm: nn.Module, attention: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ..., L) -> the same shape."""
        return self.attention(self.norm(x)) + x


class ResidualBlock(nn.Module):
    """Two convolutions with GroupNorm and SiLU; the time step scales and shifts the first.

    ``mlp`` maps what ``UNet.time_mlp`` returns to (B, 2C). For sampling both can be replaced: the
    first by a lookup that returns row numbers, this one by a table of rows. Without time
    conditioning (the fork's variant) ``mlp`` is an identity that is never called.
    """

    __constants__ = ("time_conditioned",)

    def __init__(self, c_in: int, c_out: int, time_width: int, groups: int, time_conditioned: bool) -> None:
        super().__init__()
        self.time_conditioned = time_conditioned
        self.mlp: nn.Module = (
            nn.Sequential(nn.SiLU(), nn.Linear(time_width, 2 * c_out)) if time_conditioned else nn.Identity()
        )
        self.conv1 = _conv(c_in, c_out, 3)
        self.norm1 = nn.GroupNorm(groups, c_out)
        self.act1 = nn.SiLU()
        self.conv2 = _conv(c_out, c_out, 3)
        self.norm2 = nn.GroupNorm(groups, c_out)
        self.act2 = nn.SiLU()
        self.shortcut: nn.Module = nn.Identity() if c_in == c_out else _conv(c_in, c_out, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x (B, C_in, ..., L), t (B, T) -> (B, C_out, ..., L)."""
        h = self.norm1(self.conv1(x))
        if self.time_conditioned:
            scale_shift = self.mlp(t)
            for _ in range(x.dim() - 2):
                scale_shift = scale_shift.unsqueeze(-1)
            scale, shift = scale_shift.chunk(2, dim=1)
            h = h * (scale + 1) + shift
        h = self.act2(self.norm2(self.conv2(self.act1(h))))
        return h + self.shortcut(x)


class NearestUpsample(nn.Module):
    """Repeat every position twice along the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ..., L) -> (B, C, ..., 2L)."""
        return torch.stack((x, x), dim=-1).flatten(-2)


class DownLevel(nn.Module):
    """One level on the way down; ``downsample`` halves the length, except at the last level."""

    def __init__(
        self, block1: ResidualBlock, block2: ResidualBlock, attention: ResidualAttention, downsample: nn.Module
    ) -> None:
        super().__init__()
        self.block1, self.block2, self.attention, self.downsample = block1, block2, attention, downsample

    def forward(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, ..., L) -> the level's output and the two tensors it hands across."""
        skip1 = self.block1(x, t)
        skip2 = self.attention(self.block2(skip1, t))
        return self.downsample(skip2), skip1, skip2


class UpLevel(nn.Module):
    """One level on the way up; ``upsample`` doubles the length, except at the last level."""

    def __init__(
        self,
        block1: ResidualBlock,
        block2: ResidualBlock,
        attention: ResidualAttention,
        upsample: nn.Module,
        conv: nn.Module,
    ) -> None:
        super().__init__()
        self.block1, self.block2, self.attention, self.upsample, self.conv = block1, block2, attention, upsample, conv

    def forward(self, x: Tensor, t: Tensor, skip1: Tensor, skip2: Tensor) -> Tensor:
        """(B, C, ..., L) and the two tensors of the level's way down, in the order they are used."""
        x = self.block1(torch.cat((x, skip1), dim=1), t)
        x = self.block2(torch.cat((x, skip2), dim=1), t)
        return self.conv(self.upsample(self.attention(x)))


class UNet(nn.Module):
    """What the diffusion process predicts from a noisy latent and its time step.

    Args:
        dim: channels of the first level.
        dim_mults: multipliers of the levels; four levels make 75 Conv1d.
        time_conditioned: paper variant (blocks see the time step, RMSNorm before attention) or fork
            variant (they do not, and ``time_mlp`` is never called; GroupNorm(1) before attention).
        groups: groups of the blocks' GroupNorm.
        heads, dim_head: of every attention.
    """

    __constants__ = ("time_conditioned",)

    def __init__(
        self,
        dim: int,
        dim_mults: Sequence[int],
        time_conditioned: bool = True,
        groups: int = 8,
        heads: int = 4,
        dim_head: int = 32,
    ) -> None:
        super().__init__()
        self.time_conditioned = time_conditioned
        time_width = 4 * dim
        widths = [dim, *(dim * m for m in dim_mults)]

        def block(c_in: int, c_out: int) -> ResidualBlock:
            return ResidualBlock(c_in, c_out, time_width, groups, time_conditioned)

        def attend(channels: int, kind: type[LinearAttention] | type[FullAttention]) -> ResidualAttention:
            norm = RMSNorm(channels) if time_conditioned else nn.GroupNorm(1, channels)
            return ResidualAttention(norm, kind(channels, heads, dim_head))

        self.init_conv = _conv(1, dim, 7)
        self.time_mlp = nn.Sequential(
            SinusoidalEmbedding(dim), nn.Linear(dim, time_width), nn.GELU(), nn.Linear(time_width, time_width)
        )
        if not time_conditioned:
            self.time_mlp.requires_grad_(False)  # it never gets a gradient, which optimisers of whole groups want
        levels = list(pairwise(widths))
        self.downs = nn.ModuleList()
        self.ups = nn.ModuleList()
        for i, (c_in, c_out) in enumerate(levels):
            last = i == len(levels) - 1
            down = _conv(c_in, c_out, 3) if last else nn.Conv1d(c_in, c_out, 4, stride=2, padding=1)
            self.downs.append(DownLevel(block(c_in, c_in), block(c_in, c_in), attend(c_in, LinearAttention), down))
        self.mid_block1 = block(widths[-1], widths[-1])
        self.mid_attention = attend(widths[-1], FullAttention)
        self.mid_block2 = block(widths[-1], widths[-1])
        for i, (c_in, c_out) in enumerate(reversed(levels)):
            last = i == len(levels) - 1
            self.ups.append(
                UpLevel(
                    block(c_out + c_in, c_out),
                    block(c_out + c_in, c_out),
                    attend(c_out, LinearAttention),
                    nn.Identity() if last else NearestUpsample(),
                    _conv(c_out, c_in, 3),
                )
            )
        self.final_block = block(2 * dim, dim)
        self.final_conv = nn.Conv1d(dim, 1, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Noisy latent x (B, 1, L), time step (B,) int64 -> prediction (B, 1, L)."""
        t = self.time_mlp(time) if self.time_conditioned else time
        x = self.init_conv(x)
        first = x
        skips: list[Tensor] = []
        for down in self.downs:
            x, skip1, skip2 = down(x, t)
            skips.append(skip1)
            skips.append(skip2)
        x = self.mid_block2(self.mid_attention(self.mid_block1(x, t)), t)
        for up in self.ups:
            skip2 = skips.pop()
            skip1 = skips.pop()
            x = up(x, t, skip2, skip1)
        x = self.final_block(torch.cat((x, first), dim=1), t)
        return self.final_conv(x)


def _conv(c_in: int, c_out: int, kernel: int, bias: bool = True) -> nn.Conv1d:
    """A convolution that keeps the length."""
    return nn.Conv1d(c_in, c_out, kernel, padding=kernel // 2, bias=bias)
