"""Seismic decoder: projected latent -> shot gather, by a vision transformer over two tokens.

The variants differ in the token that the last layer reads: the fork's CLS, the paper's the patch.

Shapes: B batch, D transformer width, N tokens (2: CLS and the projected latent), H heads,
S sources, T time samples, R receivers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

UNUSED_CLASSES = 1000
"""Outputs of the image classifier that upstream's transformer carries and never calls."""
CLS_TOKEN, PATCH_TOKEN = 0, 1


class SelfAttention(nn.Module):
    """Multi-head self-attention over the tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]  # (B, H, N, D/H)
        weights = torch.matmul(q * self.scale, k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj(torch.matmul(weights, v).transpose(1, 2).reshape(batch, tokens, width))


class TransformerMLP(nn.Module):
    """The two linear layers of a transformer block."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.activation = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        return self.fc2(self.activation(self.fc1(x)))


class TransformerBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = TransformerMLP(width, mlp_ratio * width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SeismicDecoder(nn.Module):
    """A vision transformer over CLS and one patch (the projected latent); one Linear reads one of them.

    ``unused_head`` is never called: it holds the two classifier tensors that upstream's checkpoints
    carry, so that an import leaves nothing over. A deployed generator drops it.

    Args:
        width: transformer width D, and channels of the input.
        depth: transformer blocks.
        heads: attention heads.
        mlp_ratio: width of a block's MLP over D.
        sources, samples, receivers: the gather's shape.
        read_token: the token that becomes the gather, ``CLS_TOKEN`` or ``PATCH_TOKEN``.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: int,
        sources: int,
        samples: int,
        receivers: int,
        read_token: int = PATCH_TOKEN,
    ) -> None:
        super().__init__()
        self.read_token = read_token
        self.sources, self.samples, self.receivers = sources, samples, receivers
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.position = nn.Parameter(torch.empty(1, 2, width))
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.02)
        self.patch = nn.Conv2d(width, width, 1)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, mlp_ratio) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.output = nn.Linear(width, sources * samples * receivers)
        self.unused_head = nn.Linear(width, UNUSED_CLASSES)

    def forward(self, projected: Tensor) -> Tensor:
        """(B, D, 1, 1) -> log-normalised gather (B, S, T, R)."""
        token = self.features(projected)
        return self.output(token).reshape(token.shape[0], self.sources, self.samples, self.receivers)

    def features(self, projected: Tensor) -> Tensor:
        """(B, D, 1, 1) -> what the head reads, (B, D)."""
        patch = self.patch(projected).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(projected.shape[0], -1, -1), patch), dim=1) + self.position
        return self.norm(self.blocks(x)[:, self.read_token])
