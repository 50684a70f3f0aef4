"""What the training loop does together with other processes, and what it does alone.

A rank computes its share of each part of a batch; gradients are summed, weighted by samples, before they are clipped.
So every rank takes the same step, and no weights are ever sent after the start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor, nn

from ubq import distributed
from ubq.distributed import Group, LostProcessError
from ubq.errors import is_out_of_memory
from ubq.training.shared_batch import shared_statistics


class Ranks(Protocol):
    """The processes that train together."""

    size: int
    first: bool
    """Whether this process is the one that validates and writes."""

    @contextmanager
    def together(self, model: nn.Module) -> Iterator[None]:
        """Train ``model`` in the block, from the first rank's weights."""
        ...

    @contextmanager
    def part(self, part: Sequence[int]) -> Iterator[Sequence[int]]:
        """Work on one part of a batch, given as global sample indices: those of this rank."""
        ...

    def own_indices(self, part: Sequence[int]) -> Sequence[int]:
        """This rank's indices of a part that is not yet worked on."""
        ...

    def sum_(
        self, parameters: Sequence[nn.Parameter], loss: Tensor, wishes: Callable[[], tuple[bool, bool]]
    ) -> tuple[bool, bool] | None:
        """Sum gradients and loss, in place.

        Args:
            wishes: whether this rank was asked to stop, and whether it wants a checkpoint, after this step.

        Returns:
            What the ranks agreed on; ``None`` where there is nobody to ask.

        Raises:
            MemoryError: another rank has run out of memory in this step.
        """
        ...

    def out_of_memory(self) -> None:
        """This rank has run out of memory in the present step, or has heard of one that did; the step begins anew."""
        ...


class Alone:
    """One process: everything is its own."""

    size, first = 1, True

    @contextmanager
    def together(self, model: nn.Module) -> Iterator[None]:
        yield

    @contextmanager
    def part(self, part: Sequence[int]) -> Iterator[Sequence[int]]:
        yield part

    def own_indices(self, part: Sequence[int]) -> Sequence[int]:
        return part

    def sum_(
        self, parameters: Sequence[nn.Parameter], loss: Tensor, wishes: Callable[[], tuple[bool, bool]]
    ) -> tuple[bool, bool] | None:
        return None

    def out_of_memory(self) -> None: ...


class Several:
    """The ranks of a group."""

    def __init__(self, group: Group) -> None:
        self.group, self.size, self.first = group, group.info.size, group.info.rank == 0

    @contextmanager
    def together(self, model: nn.Module) -> Iterator[None]:
        self.group.from_first_([*model.parameters(), *model.buffers()])
        with shared_statistics(model):
            yield

    @contextmanager
    def part(self, part: Sequence[int]) -> Iterator[Sequence[int]]:
        with self.group.part(len(part)) as share:
            yield part[share]

    def own_indices(self, part: Sequence[int]) -> Sequence[int]:
        return part[self.group.own_slice(len(part))]

    def sum_(
        self, parameters: Sequence[nn.Parameter], loss: Tensor, wishes: Callable[[], tuple[bool, bool]]
    ) -> tuple[bool, bool] | None:
        agreed = self.group.agree(*wishes())
        try:
            self.group.sum_all_([p.grad for p in parameters if p.grad is not None])
            self.group.sum_(loss)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            # the others are in the sum already
            raise LostProcessError("out of memory while gradients were summed") from error
        return agreed

    def out_of_memory(self) -> None:
        self.group.out_of_memory()


def ranks() -> Ranks:
    """The processes that train together with this one."""
    group = distributed.group()
    return Alone() if group is None else Several(group)
