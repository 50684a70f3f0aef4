"""What the training loop does together with other processes, and what it does alone.

A rank computes its share of each part of a batch; gradients are summed, weighted by samples, before they are clipped.
So every rank takes the same step. Where each has a copy of the weights, none are sent after the start; where they are
sharded (``ubq.training.sharding``), whatever looks at the model as a whole is done by all ranks together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor, nn

from ubq import distributed
from ubq.distributed import Group, LostProcessError
from ubq.errors import StageError, is_out_of_memory
from ubq.i18n import gettext as _
from ubq.training.sharding import is_sharded, whole_on_host
from ubq.training.shared_batch import shared_statistics


class Ranks(Protocol):
    """The processes that train together."""

    size: int
    first: bool
    """Whether this process is the one that writes."""
    validates: bool
    """Whether this process takes part in validations."""
    sharded: bool
    """Whether each holds a part of the weights, not all of them."""

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

    def norm(self, own: Tensor) -> Tensor:
        """Norm of what all ranks hold, from that of what this one holds."""
        ...

    def any_(self, flags: Tensor) -> Tensor:
        """Of numbers 0 or 1 about what this rank holds: the largest of each, in place."""
        ...

    def whole(self, payload: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """What is to be saved, whole where this rank is the first; and whether it is a copy already."""
        ...

    def out_of_memory(self) -> None:
        """This rank has run out of memory in the present step, or has heard of one that did; the step begins anew.

        Raises:
            StageError: it cannot.
        """
        ...


class Alone:
    """One process: everything is its own."""

    size, first, validates, sharded = 1, True, True, False

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

    def norm(self, own: Tensor) -> Tensor:
        return own

    def any_(self, flags: Tensor) -> Tensor:
        return flags

    def whole(self, payload: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        return payload, False

    def out_of_memory(self) -> None: ...


class Several(Alone):
    """The ranks of a group, each with all weights."""

    def __init__(self, group: Group) -> None:
        self.group, self.size, self.first = group, group.info.size, group.info.rank == 0
        self.validates = self.first

    @contextmanager
    def together(self, model: nn.Module) -> Iterator[None]:
        self.group.from_first_([t for t in (*model.parameters(), *model.buffers()) if not is_sharded(t)])
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


class Sharded(Several):
    """The ranks of a group, each with a part of the weights.

    In a step each block is gathered by all ranks, so that a rank which runs out of memory leaves the others waiting: it
    cannot go on.
    """

    sharded = True

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self.validates = True

    def sum_(
        self, parameters: Sequence[nn.Parameter], loss: Tensor, wishes: Callable[[], tuple[bool, bool]]
    ) -> tuple[bool, bool] | None:
        agreed = self.group.agree(*wishes())
        self.group.sum_(loss)  # gradients were summed as they were computed
        return agreed

    def norm(self, own: Tensor) -> Tensor:
        return self.group.sum_(own.square()).sqrt()

    def any_(self, flags: Tensor) -> Tensor:
        return self.group.max_(flags)

    def whole(self, payload: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        return whole_on_host(payload, keep=self.first), True

    def out_of_memory(self) -> None:
        raise StageError(
            _("out of memory, while the U-Net is spread over {count} processes").format(count=self.size),
            _("have the stage begin with smaller parts of a batch (its accumulate), or use more processes"),
        ) from MemoryError()


def ranks(model: nn.Module) -> Ranks:
    """The processes that train a model together with this one."""
    group = distributed.group()
    if group is None:
        return Alone()
    return Sharded(group) if is_sharded(model) else Several(group)
