"""AdamW, or Muon for the weight matrices and AdamW for the rest.

Suffixes: N matrices of one shape, R rows, C columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ubq.config.schema import ConvolutionalTraining, TrainingConfig
from ubq.training.sharding import around, is_sharded, of_whole_matrices, own, own_part, sharded_like

MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration that brings every singular value near 1 (Jordan et al. 2024)."""
ITERATIONS = 5
RMS_OF_ADAMW = 0.2
"""What the root-mean-square of AdamW's steps comes to, in learning rates (Liu et al. 2025)."""


class StageOptimizer:
    """The optimisers of a stage, as one.

    Args:
        model: its parameters that require gradients are trained.
        settings: ``lr``, ``weight_decay`` and, where the stage has the choice, ``optimizer``.
        device: of the model.
    """

    def __init__(self, model: nn.Module, settings: TrainingConfig, device: torch.device) -> None:
        trained = [p for p in model.parameters() if p.requires_grad]
        muon = isinstance(settings, ConvolutionalTraining) and settings.optimizer == "muon"
        kernels = [p for p in trained if is_matrix(p)] if muon else []
        of_muon = {id(p) for p in kernels}
        self._adamw = torch.optim.AdamW(
            [{"params": [p for p in trained if id(p) not in of_muon]}],
            lr=settings.lr, weight_decay=settings.weight_decay, fused=device.type in ("cpu", "cuda"),
        )  # fmt: skip
        self._muon = Muon(kernels, settings.weight_decay)
        self.lr = settings.lr

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = value
        for group in self._adamw.param_groups:
            group["lr"] = value

    def step(self) -> None:
        """One step along the parameters' gradients."""
        self._adamw.step()
        self._muon.step(self.lr)

    def zero_grad(self) -> None:
        """Give up all gradients."""
        self._adamw.zero_grad(set_to_none=True)
        self._muon.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """AdamW's own, and Muon's momenta beside it."""
        return {**self._adamw.state_dict(), "muon": self._muon.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The counterpart of ``state_dict``, of whole tensors; takes AdamW's alone too, as checkpoints once were."""
        trained = self._adamw.param_groups[0]["params"]
        moments = {
            number: {name: sharded_like(tensor, trained[number]) for name, tensor in of.items()}
            for number, of in state["state"].items()
        }
        self._adamw.load_state_dict({"state": moments, "param_groups": state["param_groups"]})
        for of in self._adamw.state.values():  # on a CPU they are taken over as they are: pages of the file
            for name, tensor in of.items():
                if isinstance(tensor, Tensor) and tensor.device.type == "cpu":
                    of[name] = tensor.clone()
        self._muon.load_state_dict(state.get("muon", []))


class Muon:
    """Momentum whose matrices are made orthogonal before they are added (Jordan et al. 2024, "Muon: an optimizer for
    hidden layers in neural networks").

    A convolution's kernel counts as the matrix (C_out, C_in * taps). Steps have the size of AdamW's, so that both share
    one learning rate (Liu et al. 2025, "Muon is scalable for LLM training"). All matrices of one shape are worked on
    together: ``torch.optim.Muon`` takes two-dimensional parameters alone, one by one, which for a U-Net of small
    kernels is a third of a training step (studies/optimizer_cost.md).

    Args:
        kernels: each with more than one row and column.
        weight_decay: as AdamW's.
    """

    def __init__(self, kernels: Sequence[nn.Parameter], weight_decay: float) -> None:
        self._weight_decay = weight_decay
        by_shape: dict[tuple[int, int], list[nn.Parameter]] = {}
        for kernel in kernels:
            by_shape.setdefault((kernel.shape[0], kernel.numel() // kernel.shape[0]), []).append(kernel)
        self._groups = list(by_shape.values())
        self._momenta = [_zeros(kernels) for kernels in self._groups]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One step along the kernels' gradients, which all must have."""
        for kernels, momentum_NRC in zip(self._groups, self._momenta, strict=True):
            gradient_NRC = torch.stack([_as_matrix(own(k.grad), k) for k in kernels if k.grad is not None])
            own_NRC = own(momentum_NRC)
            own_NRC.lerp_(gradient_NRC, 1 - MOMENTUM)
            step_NRC = of_whole_matrices(orthogonal, gradient_NRC.lerp(own_NRC, MOMENTUM), momentum_NRC)
            size = RMS_OF_ADAMW * max(momentum_NRC.shape[1:]) ** 0.5
            matrices = [_as_matrix(own(k), k) for k in kernels]
            torch._foreach_mul_(matrices, 1 - lr * self._weight_decay)
            torch._foreach_add_(matrices, list(step_NRC.unbind()), alpha=-lr * size)

    def zero_grad(self) -> None:
        """Give up all gradients."""
        for kernels in self._groups:
            for kernel in kernels:
                kernel.grad = None

    def state_dict(self) -> list[Tensor]:
        """The momenta."""
        return self._momenta

    def load_state_dict(self, state: Sequence[Tensor]) -> None:
        """The counterpart of ``state_dict``."""
        for momentum, saved in zip(self._momenta, state, strict=True):
            own(momentum).copy_(own_part(saved, momentum))


def _zeros(kernels: Sequence[nn.Parameter]) -> Tensor:
    """Momenta (N, R, C) of kernels of one shape, sharded as they are."""
    matrices = torch.stack([_as_matrix(torch.zeros_like(own(k)), k) for k in kernels])
    return around(matrices, kernels[0], dim=1) if is_sharded(kernels[0]) else matrices


def orthogonal(matrices_NRC: Tensor) -> Tensor:
    """Matrices (N, R, C) with the same singular vectors and singular values near 1, none negative."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices_NRC.shape[1] > matrices_NRC.shape[2]
    x = matrices_NRC.mT if tall else matrices_NRC  # the products below have the rows' size
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)  # no singular value above 1
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def is_matrix(weight: Tensor) -> bool:
    """Has a parameter more than one row and column to make orthogonal?"""
    return weight.dim() >= 2 and weight.shape[0] > 1 and weight.numel() > weight.shape[0]


def _as_matrix(tensor: Tensor, kernel: Tensor) -> Tensor:
    """(C_out, ...) -> (C_out, C_in * taps), columns in the kernel's own order in memory: of the kernel it is a view."""
    inner = sorted(range(1, kernel.dim()), key=kernel.stride, reverse=True)
    return tensor.permute(0, *inner).flatten(1)
