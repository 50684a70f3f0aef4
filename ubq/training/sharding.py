"""A U-Net, its average and its optimiser's state spread over the ranks: each holds a part of every tensor.

A block's weights are whole only while it computes (Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training
Trillion Parameter Models"; in PyTorch ``fully_shard``). Rows of every tensor, its first dimension, are dealt out in
order; each rank's share of a batch stays what it is without sharding, and so do the sums.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn

from ubq.distributed import LostProcessError, is_lost_process
from ubq.model.unet import DownLevel, ResidualAttention, ResidualBlock, UpLevel

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

    from ubq.distributed import Group

UNITS = (ResidualBlock, ResidualAttention, DownLevel, UpLevel)
"""What is made whole at a time, and what else a level has; the rest of the U-Net is small."""


class ShardedTask(Protocol):
    """A task whose U-Net can be sharded."""

    model: nn.Module


def units_of(unet: nn.Module) -> list[nn.Module]:
    """The parts of a U-Net that are whole one after the other, the inner before the outer; the last is the U-Net."""
    return [module for module in reversed(list(unet.modules())) if isinstance(module, UNITS)] + [unet]


def is_sharded(value: Tensor | nn.Module) -> bool:
    """Whether a tensor, or a model's weights, are spread over the ranks."""
    if isinstance(value, nn.Module):
        return any(map(is_sharded, value.parameters()))
    return hasattr(value, "placements")  # what a DTensor has; its module is imported only where sharding is used


def own(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor, in its memory; any other tensor as it is. No part of a graph."""
    return cast("DTensor", tensor.detach()).to_local() if is_sharded(tensor) else tensor.detach()


def own_part(whole: Tensor, like: Tensor) -> Tensor:
    """What this rank holds of ``whole``, as ``like`` is sharded; a view."""
    if not is_sharded(like):
        return whole
    mesh, (placement,) = cast("DTensor", like).device_mesh, cast("DTensor", like).placements
    dim, length = cast("Any", placement).dim, -(-whole.shape[cast("Any", placement).dim] // mesh.size())
    begin = min(mesh.get_local_rank() * length, whole.shape[dim])
    return whole.narrow(dim, begin, min(length, whole.shape[dim] - begin))


def sharded_like(whole: Tensor, like: Tensor) -> Tensor:
    """``whole``, of which each rank keeps its part where ``like`` is sharded, on the device of ``like``."""
    if not is_sharded(like) or whole.shape != like.shape:
        return whole
    return around(own_part(whole, like).to(like.device), like)


def around(part: Tensor, like: Tensor, dim: int = 0) -> Tensor:
    """A tensor of which this rank holds ``part``; its dimension ``dim`` is spread as the first one of ``like`` is."""
    from torch.distributed.tensor import DTensor, Shard

    shape = list(part.shape)
    shape[dim] = like.shape[0]
    stride = torch.empty(shape, device="meta").stride()
    mesh = cast("DTensor", like).device_mesh
    return DTensor.from_local(part, mesh, [Shard(dim)], run_check=False, shape=torch.Size(shape), stride=stride)


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor whole, on every rank, which all must ask for; any other tensor as it is."""
    return cast("DTensor", tensor).full_tensor() if is_sharded(tensor) else tensor


def whole_on_host(value: Any, keep: bool) -> Any:
    """A copy of nested tensors, whole and in the host's memory, on the ranks that ``keep`` it; all must ask for it.

    One tensor at a time, so that no device holds more than that beside what it has. Where nothing is kept, the
    tensors are empty.
    """
    if isinstance(value, Tensor):
        found = whole(value.detach())
        return found.to("cpu", copy=True) if keep else found.new_empty(0)
    if isinstance(value, Mapping):
        return {key: whole_on_host(inner, keep) for key, inner in value.items()}
    return type(value)(whole_on_host(inner, keep) for inner in value) if isinstance(value, list | tuple) else value


def load_whole(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """``load_state_dict`` of whole tensors; of a sharded model each rank copies its part alone."""
    if not is_sharded(model):
        model.load_state_dict(state)
        return
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            own(tensor).copy_(own_part(state[name], tensor))


def of_whole_matrices(compute: Callable[[Tensor], Tensor], rows_NRC: Tensor, like: Tensor) -> Tensor:
    """This rank's rows of what ``compute`` makes of whole matrices (N, R, C); of sharded ones, of one at a time.

    Args:
        rows_NRC: this rank's rows of the matrices.
        like: (N, R, C), sharded as they are.
    """
    if not is_sharded(like):
        return compute(rows_NRC)
    first = cast("DTensor", like)[0]
    return torch.stack([own_part(compute(whole(around(rows, first))[None])[0], first) for rows in rows_NRC])


@contextmanager
def sharded(task: ShardedTask, group: Group, device: torch.device) -> Iterator[None]:
    """Train a task's U-Net sharded in the block, from the first rank's weights.

    Where the training came to its end, the first rank then has the U-Net it began with whole on the device, with the
    weights trained. On the others it is left without memory.

    Args:
        task: its ``model``, and its ``teacher`` where it has one.
        group: the ranks.
        device: that this rank trains on.

    Raises:
        LostProcessError: another rank is gone.
    """
    before = {name: module for name in ("model", "teacher") if (module := getattr(task, name, None)) is not None}
    for name, module in before.items():
        setattr(task, name, _sharded_copy(module, group, device))
    try:
        yield
    except RuntimeError as error:  # of a collective that no code of ours has called
        if not is_lost_process(error):
            raise
        raise LostProcessError(str(error).splitlines()[0]) from error
    trained, unet = task.model, before["model"]
    state = whole_on_host(trained.state_dict(), keep=group.info.rank == 0)
    task.model = unet
    del trained
    if group.info.rank == 0:
        unet.load_state_dict(state, assign=True)
        unet.to(device)


def _sharded_copy(unet: nn.Module, group: Group, device: torch.device) -> nn.Module:
    """A sharded U-Net with the first rank's weights; ``unet`` gives up its memory."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    first = group.info.rank == 0
    state = {name: tensor.cpu() for name, tensor in unet.state_dict().items()} if first else {}
    unet.to("meta")
    copied = copy.deepcopy(unet)
    # the U-Net returns a view; FSDP's hook would be lost where somebody changed it in place, and it warns of that
    copied.register_forward_hook(lambda _unet, _inputs, output: output.clone())
    mesh = init_device_mesh(device.type, (group.info.size,))
    for unit in units_of(copied):
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)
        assert isinstance(unit, FSDPModule)
        unit.set_gradient_divide_factor(1.0)  # gradients are weighted by samples already
        unit.set_force_sum_reduction_for_comms(True)
    copied.to_empty(device=device)
    for name, tensor in copied.state_dict().items():
        sent = state[name].to(device) if first else torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        group.from_first_([sent])
        own(tensor).copy_(own_part(sent, tensor))
    return copied
