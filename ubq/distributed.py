"""Several processes that train one model: who they are, what they tell each other, what they sum.

Data parallel: each process ("rank") takes its share of every part of a batch, and what a single process would compute
of the whole part is summed over the ranks: gradients, batch statistics, ranges of observers. So data, noise and
figures are those of one process, up to rounding. The processes are torchrun's or Slurm's; this module starts none.

Two channels. Tensors are reduced in *collectives* (NCCL for a GPU, gloo for a CPU), and only while a stage trains.
Everything else goes over the *store*, a table of keys in the process that started the group: waiting there has no
watchdog, so that a stage may take hours on rank 0 while the others wait.

No rank may leave the others in a collective. Before each of them, and once a step, the ranks agree: a few numbers,
reduced on the CPU, that say whether one of them has run out of memory, was asked to stop, or wants a checkpoint.

Imports no torch until a group is joined.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

BUCKET = 1 << 24
"""Gradient elements that are summed at a time: 64 MB."""
WAIT_S = 1.0
"""How long a rank waits for the store before it looks whether it was asked to stop."""
SILENT_H = 6.0
"""Hours after which a collective that nobody joins gives up: more than any validation or save takes."""
LAUNCHER = "UBQ_LAUNCHER"
"""Environment variable: process id of the ``ubq run`` that started the group."""
FIRST_PORT, PORTS = 20_000, 20_000
"""Slurm's jobs meet at a port that their number decides."""


class LostProcessError(Exception):
    """Another process of the group is gone; nothing can be reduced any more."""


def is_lost_process(error: BaseException) -> bool:
    """True for what a collective raises as another process is gone; gloo has no type of its own for it."""
    from torch.distributed import DistError

    marks = ("closed by peer", "reset by peer", "broken pipe", "gloo/transport")
    return isinstance(error, DistError) or any(mark in str(error).lower() for mark in marks)


class OutOfMemoryElsewhereError(MemoryError):
    """Another process of the group ran out of memory in this step."""


class Followed(Exception):  # no error: a rank has done its part of a stage
    """Raised on every rank but the first where what follows is the first one's alone."""


@dataclass(frozen=True)
class RankInfo:
    """This process among the others."""

    rank: int
    size: int
    local_rank: int
    """Among the processes of this host; the number of its GPU."""
    local_size: int
    restarts: int = 0
    """How often the group was started again after a process was lost."""
    most_restarts: int = 0


def rank_info(environ: Mapping[str, str] | None = None) -> RankInfo | None:
    """This process among several, from torchrun's variables or those of ``srun``; ``None`` where it is alone."""
    environ = os.environ if environ is None else environ

    def number(name: str, default: int = 0) -> int:
        return int(environ.get(name) or default)

    if number("WORLD_SIZE", 1) > 1:
        return RankInfo(
            number("RANK"), number("WORLD_SIZE"), number("LOCAL_RANK"), number("LOCAL_WORLD_SIZE", 1),
            number("TORCHELASTIC_RESTART_COUNT"), number("TORCHELASTIC_MAX_RESTARTS"),
        )  # fmt: skip
    if number("SLURM_STEP_NUM_TASKS", 1) > 1:  # a batch script itself has none: it is one process
        size = number("SLURM_STEP_NUM_TASKS")
        local_size = environ.get("SLURM_STEP_TASKS_PER_NODE", "1").split(",")[0].split("(")[0]
        return RankInfo(number("SLURM_PROCID"), size, number("SLURM_LOCALID"), int(local_size))
    return None


def launcher() -> int:
    """Process id of the ``ubq run`` that started this group; 0 where none did."""
    return int(os.environ.get(LAUNCHER) or 0) if rank_info() else 0


def threads_here(threads: int) -> int:
    """This process's share of a machine's CPU threads."""
    info = rank_info()
    return max(1, threads // info.local_size) if info else threads


def _meeting_point(environ: Mapping[str, str]) -> tuple[str, int]:
    """Host and port of the store of a group that ``srun`` started."""
    if "MASTER_ADDR" in environ:
        return environ["MASTER_ADDR"], int(environ.get("MASTER_PORT", FIRST_PORT))
    port = FIRST_PORT + int(environ.get("SLURM_JOB_ID", 0)) % PORTS
    return first_host(environ["SLURM_STEP_NODELIST"]), port


def first_host(nodes: str) -> str:
    """First host of a list as Slurm writes it: ``gpu[03-05,9],other`` -> ``gpu03``."""
    head, bracket, rest = nodes.partition("[")
    if not bracket or "," in head:
        return head.split(",")[0]
    numbers, _bracket, tail = rest.partition("]")
    return head + numbers.replace("-", ",").split(",")[0] + tail.split(",")[0]


class Group:
    """The processes of a run, with this one among them.

    Args:
        info: this process.
        store: keys and values that every process sees; set by one, waited for by the others.
    """

    def __init__(self, info: RankInfo, store: Any) -> None:
        self.info, self._store = info, store
        self._sizes: list[int] = []
        self._oom_announced = False
        self._decisions = 0

    # --- the store

    def tell(self, key: str, value: object) -> None:
        """Set a key to a value that JSON can hold."""
        self._store.set(key, json.dumps(value))

    def value(self, key: str) -> Any:
        """A key's value; ``None`` where nobody has set it."""
        return json.loads(self._store.get(key)) if self._store.check([key]) else None

    def wait(self, key: str, should_stop: Callable[[], bool] = lambda: False) -> Any:
        """A key's value, waited for as long as it takes; ``None`` where ``should_stop`` came first."""
        while not should_stop():
            try:
                self._store.wait([key], timedelta(seconds=WAIT_S))
            except RuntimeError:
                if not self._alive():
                    raise LostProcessError("the store is gone") from None
                continue
            return self.value(key)
        return None

    def _alive(self) -> bool:
        try:
            self._store.check(["alive"])
        except RuntimeError:
            return False
        return True

    def decided_by_first(self, decide: Callable[[], Any]) -> Any:
        """What the first rank decides, on every rank; a value that JSON can hold. The others wait on the store."""
        self._decisions += 1
        key = f"decision/{self.info.restarts}/{self._decisions}"
        if self.info.rank:
            return self.wait(key)
        value = decide()
        self.tell(key, value)
        return value

    # --- collectives

    @contextmanager
    def part(self, size: int) -> Iterator[slice]:
        """Work on one part of a batch, of ``size`` samples at least as many as ranks; gives this rank's share of it.

        Batch statistics, observers and losses that look at a batch as a whole share what they see while in the block.
        """
        self._sizes = [s.stop - s.start for s in map(self._slice_of(size), range(self.info.size))]
        try:
            yield self.own_slice(size)
        finally:
            self._sizes = []

    def own_slice(self, size: int) -> slice:
        """This rank's share of a part of a batch of so many samples."""
        return self._slice_of(size)(self.info.rank)

    def _slice_of(self, size: int) -> Callable[[int], slice]:
        ranks = self.info.size
        return lambda rank: slice(rank * size // ranks, (rank + 1) * size // ranks)

    @property
    def working(self) -> bool:
        """Whether a part of a batch is being worked on (:meth:`part`)."""
        return bool(self._sizes)

    @property
    def share(self) -> float:
        """This rank's share of the part that is being worked on."""
        return self._sizes[self.info.rank] / sum(self._sizes)

    def agree(self, stop: bool = False, checkpoint: bool = False, out_of_memory: bool = False) -> tuple[bool, bool]:
        """Whether any rank was asked to stop, and whether any wants a checkpoint.

        Raises:
            OutOfMemoryElsewhereError: another rank ran out of memory; all ranks learn of it at the same place.
        """
        flags = self._agree(stop, checkpoint, out_of_memory)
        return bool(flags[0]), bool(flags[1])

    def _agree(
        self, stop: bool = False, checkpoint: bool = False, out_of_memory: bool = False, pair: Tensor | None = None
    ) -> Tensor:
        """Largest of each over the ranks; ``pair``: two more numbers that go the same way."""
        import torch

        flags = torch.tensor([stop, checkpoint, out_of_memory, 0.0, 0.0], dtype=torch.float32)
        if pair is not None:
            flags[3:] = pair
        self._reduce(flags, "max")
        if flags[2] and not out_of_memory:
            self._oom_announced = True
            raise OutOfMemoryElsewhereError
        return flags

    def out_of_memory(self) -> None:
        """Tell the others that this rank has run out of memory, unless one of them has said so."""
        if not self._oom_announced:
            self.agree(out_of_memory=True)
        self._oom_announced = False

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over the ranks, in place; inside a step or where every rank is sure to come."""
        if self.working:
            self.agree()
        return self._reduce(tensor, "sum")

    def max_(self, tensor: Tensor) -> Tensor:
        """Largest of each element over the ranks, in place."""
        if self.working:
            self.agree()
        return self._reduce(tensor, "max")

    def range(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Smallest and largest value over the ranks, scalars."""
        import torch

        both = torch.stack((-low, high)).float()
        if both.device.type == "cpu":  # hundreds of observers: one message each
            both = self._agree(pair=both)[3:]
        else:
            self.max_(both)
        return -both[0], both[1]

    def strided(self, flat: Tensor, stride_of: Callable[[int], int]) -> Tensor:
        """Every so-manieth element of what all ranks hold of one tensor, in order, as if one process held it.

        Args:
            flat: (N,), this rank's share along the batch.
            stride_of: from the number of elements of the whole to the spacing.
        """
        each = flat.numel() // self._sizes[self.info.rank]
        stride = stride_of(each * sum(self._sizes))
        counts, begin, chosen = [], 0, flat[:0]
        for rank, size in enumerate(self._sizes):
            first, length = -begin % stride, each * size
            if rank == self.info.rank:
                chosen = flat[first::stride]
            counts.append(len(range(first, length, stride)))
            begin += length
        return self._gathered(chosen, counts)

    def gather(self, tensor: Tensor) -> Tensor:
        """The whole part's tensor (B, ...), of which each rank holds the rows of its samples."""
        return self._gathered(tensor, self._sizes)

    def _gathered(self, share: Tensor, counts: Sequence[int]) -> Tensor:
        begin = sum(counts[: self.info.rank])
        whole = share.new_zeros(sum(counts), *share.shape[1:])
        whole[begin : begin + len(share)] = share
        return self.sum_(whole)

    def own_rows(self, whole: Tensor) -> Tensor:
        """This rank's rows of a tensor of the whole part."""
        begin = sum(self._sizes[: self.info.rank])
        return whole[begin : begin + self._sizes[self.info.rank]]

    def sum_all_(self, tensors: Sequence[Tensor]) -> None:
        """Sum many tensors over the ranks, in place, in few large collectives."""
        import torch

        waiting: list[Tensor] = []
        for number, tensor in enumerate(tensors):
            waiting.append(tensor)
            if sum(t.numel() for t in waiting) >= BUCKET or number == len(tensors) - 1:
                flat = self._reduce(torch.cat([t.reshape(-1) for t in waiting]), "sum")
                parts = flat.split([t.numel() for t in waiting])
                torch._foreach_copy_(waiting, [p.view(t.shape) for p, t in zip(parts, waiting, strict=True)])
                waiting = []

    def from_first_(self, tensors: Sequence[Tensor]) -> None:
        """Give every rank the first one's values, in place."""
        import torch.distributed as dist

        for tensor in tensors:
            held = tensor.data.contiguous()
            self._collective(dist.broadcast, held, 0)
            if held.data_ptr() != tensor.data_ptr():
                tensor.data.copy_(held)

    def _reduce(self, tensor: Tensor, how: str) -> Tensor:
        import torch.distributed as dist

        self._collective(dist.all_reduce, tensor, dist.ReduceOp.SUM if how == "sum" else dist.ReduceOp.MAX)
        return tensor

    @staticmethod
    def _collective(function: Callable[..., object], *arguments: object) -> None:
        try:
            function(*arguments)
        except RuntimeError as error:
            raise LostProcessError(str(error).splitlines()[0]) from error


_group: Group | None = None


def group() -> Group | None:
    """The group this process has joined; ``None`` where it is alone."""
    return _group


def sharing() -> Group | None:
    """The group while a part of a batch is shared among its ranks, else ``None``."""
    return _group if _group is not None and _group.working else None


def join(device: str) -> Group:
    """Meet the other processes; returns once all are there.

    Args:
        device: configured one; NCCL reduces what lies on GPUs.
    """
    global _group
    info = rank_info()
    assert info is not None
    if _group is not None:
        return _group
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    patience = timedelta(hours=SILENT_H)
    gpu = device != "cpu" and torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(info.local_rank % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
    if "RANK" in os.environ:
        store: Any = next(rendezvous("env://"))[0]
    else:
        host, port = _meeting_point(os.environ)
        begin = timedelta(minutes=10)
        store = dist.TCPStore(host, port, info.size, info.rank == 0, timeout=begin)  # type: ignore[attr-defined]
    # torchrun keeps its store over restarts, with the addresses of processes that are gone
    store = dist.PrefixStore(f"ubq/{info.restarts}", store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=info.rank, world_size=info.size, timeout=patience)
    _group = Group(info, store)
    return _group


def leave() -> None:
    """Part from the others."""
    global _group
    if _group is not None:
        import torch.distributed as dist

        dist.destroy_process_group()
        _group = None


def this_rank() -> dict[str, object]:
    """Rank, host and process id, as ``state.json`` holds them."""
    info = rank_info()
    return {"rank": info.rank if info else 0, "host": socket.gethostname(), "pid": os.getpid()}


def first_alone() -> None:
    """Go on only on the first rank, or alone.

    Raises:
        Followed: on every other rank.
    """
    if _group is not None and _group.info.rank:
        raise Followed


def decided_by_first(decide: Callable[[], Any]) -> Any:
    """What the first rank, or this process alone, decides; see :meth:`Group.decided_by_first`."""
    return decide() if _group is None else _group.decided_by_first(decide)
