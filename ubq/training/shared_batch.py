"""Layers and losses that look at a batch as a whole, where its samples are spread over several processes.

``torch.nn.SyncBatchNorm`` is the same for GPUs alone.

Suffixes: B samples, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ubq.distributed import Group, sharing

BatchNorm = nn.modules.batchnorm._BatchNorm


@contextmanager
def shared_statistics(model: nn.Module) -> Iterator[None]:
    """Inside the block every BatchNorm below ``model`` takes the statistics of all ranks' samples."""
    norms = [m for m in model.modules() if isinstance(m, BatchNorm)]
    for norm in norms:
        norm.forward = partial(_batch_norm, norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _batch_norm(norm: BatchNorm, x: Tensor) -> Tensor:
    """``norm(x)``, x (B, C, ...); over all ranks in training mode."""
    group = sharing()
    if group is None or not norm.training:
        return type(norm).forward(norm, x)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    y, mean_C, variance_C, count = _SharedBatchNorm.apply(x, norm.weight, norm.bias, norm.eps, group)
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean_C, norm.momentum)
        norm.running_var.lerp_(variance_C * (count / (count - 1)), norm.momentum)
    return y


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


class _SharedBatchNorm(torch.autograd.Function):
    """Batch normalisation of x (B, C, ...) over all ranks; also gives mean and variance (C,), and values a channel."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, group: Group
    ) -> tuple[Tensor, Tensor, Tensor, float]:
        others = [d for d in range(x.dim()) if d != 1]
        local_count = x.numel() / x.shape[1]
        variance_C, mean_C = torch.var_mean(_wide(x), others, correction=0)
        mean_C, variance_C = mean_C.double(), variance_C.double()
        count = local_count / group.share
        moments = group.sum_(torch.stack((mean_C, variance_C + mean_C.square())) * local_count) / count
        variance_C = (moments[1] - moments[0].square()).clamp(min=0.0).to(weight.dtype)
        mean_C = moments[0].to(weight.dtype)
        ctx.save_for_backward(x, weight, mean_C, variance_C)
        ctx.eps, ctx.group, ctx.count, ctx.others = eps, group, count, others
        y = torch.batch_norm(x, weight, bias, mean_C, variance_C, False, 0.0, eps, False)
        ctx.mark_non_differentiable(mean_C, variance_C)
        return y, mean_C, variance_C, count

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, mean_C, variance_C = ctx.saved_tensors
        grad = _wide(grads[0])

        def over_places(values_C: Tensor) -> Tensor:
            return values_C.reshape(1, -1, *[1] * (x.dim() - 2))

        inverse_C = (variance_C + ctx.eps).rsqrt()
        normal = (_wide(x) - over_places(mean_C)) * over_places(inverse_C)
        grad_bias, grad_weight = grad.sum(ctx.others), (grad * normal).sum(ctx.others)
        sums = ctx.group.sum_(torch.stack((grad_bias, grad_weight))) / ctx.count
        grad_x = (grad - over_places(sums[0]) - normal * over_places(sums[1])) * over_places(weight * inverse_C)
        return grad_x.to(x.dtype), grad_weight, grad_bias, None, None


class _GatheredRows(torch.autograd.Function):
    """Rows of all ranks, of which the gradient of this rank's own comes back.

    Each rank computes the same loss of all rows and weighs it with its share; their gradients are summed. So a rank's
    own rows get the whole gradient from itself alone: divided by its share.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return group.gather(maps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.group.own_rows(grads[0]) / ctx.group.share, None


def whole_batch(maps: Tensor) -> Tensor:
    """Maps (B, ...) of all ranks' samples, for a loss that each rank computes of all of them; has a graph."""
    group = sharing()
    return maps if group is None else _GatheredRows.apply(maps, group)
