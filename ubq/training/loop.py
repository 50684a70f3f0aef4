"""The training loop: every stage that trains runs through here.

A step is decided by its number alone: which samples it sees and what it draws are keyed by the
global sample index, and the learning rate and the quantisation phase follow from the step. What a
checkpoint has to hold is therefore the weights, their average, the optimiser's moments, the
model's buffers (batch statistics, observers) and the step. With several processes (``ubq.distributed``)
each rank takes its share of the step's indices and only the first writes; how, is in ``ubq.training.ranks``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from ubq.config.schema import RunConfig, TrainingConfig
from ubq.errors import DivergedError, StageError, is_out_of_memory
from ubq.i18n import gettext as _
from ubq.training.context import Stopped, TrainingContext
from ubq.training.ema import WeightAverage
from ubq.training.optimizer import StageOptimizer
from ubq.training.randomness import SampleDraws, SampleOrder
from ubq.training.ranks import ranks
from ubq.training.saving import Saver
from ubq.training.sharding import load_whole, own

FULL_QUANTISATION_PHASE = "activations"
"""First phase of quantisation-aware training in which weights and activations are both fake-quantised."""


class Task(Protocol):
    """What is trained and how it is scored."""

    train_samples: int
    bfloat16_on: tuple[str, ...]
    """Kinds of device on which its steps are taken in bfloat16 where the device has it. On a CPU where that is faster,
    as measured (studies/training_precision.md); none for quantisation-aware training: it computes as the integers
    will."""

    @property
    def model(self) -> nn.Module:
        """Its parameters that require gradients are trained; its whole state is checkpointed."""
        ...

    def phase(self, step: int, steps: int) -> str:
        """Name of the phase this step is in: "train", or a quantisation phase."""
        ...

    def enter(self, phase: str) -> None:
        """Prepare the model for steps of this phase."""
        ...

    def hold(self) -> None:
        """After every step: bring back the weights that the task keeps somewhere."""
        ...

    def loss(self, samples: Tensor, draws: SampleDraws) -> Tensor:
        """Mean loss over the given training samples, (B,) int64; a scalar with a graph."""
        ...

    def prefetch(self, samples: Tensor) -> None:
        """Begin to read the training samples that the next ``loss`` will be of; may do nothing."""
        ...

    def validate(self, batch: int) -> float:
        """Loss on the held-out samples, ``batch`` at a time, with the model's present weights."""
        ...


def total_steps(settings: TrainingConfig, samples: int) -> int:
    """Steps of a stage: as configured, or epochs over the samples."""
    return settings.steps or settings.epochs * math.ceil(samples / settings.batch_size)


def learning_rate(settings: TrainingConfig, step: int, steps: int) -> float:
    """Linear warm-up, then constant or half a cosine down to 1 % of the peak."""
    rise = max(1, round(settings.lr_warmup * steps))
    if step < rise:
        return settings.lr * (step + 1) / rise
    if settings.schedule == "constant":
        return settings.lr
    progress = (step - rise) / max(1, steps - rise)
    return settings.lr * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * progress)))


def train(
    task: Task, loop: TrainingContext, settings: TrainingConfig, run: RunConfig, seed: int, device: torch.device
) -> None:
    """Train to the last step, from the last checkpoint if there is one; leaves the average in the model.

    Raises:
        Stopped: a stop was requested and the loop has saved itself.
        DivergedError: a loss, a gradient or a weight is not finite; no such state is saved.
        StageError: not even one sample fits the memory.
    """
    try:
        with ranks(task.model).together(task.model):
            _Training(task, loop, settings, run, seed, device).run()
    except (RuntimeError, MemoryError) as error:  # the average, the optimiser's moments, a save
        if not is_out_of_memory(error):
            raise
        message = _("out of memory, and smaller parts of a batch would not help")
        raise StageError(message, _more_memory()) from error


def _more_memory() -> str:
    return _("use a smaller preset, a device with more memory, or free some memory, then ubq resume")


def _has_bfloat16(device: torch.device) -> bool:
    """Has the device instructions for products in bfloat16? Without them they are slower than in float32."""
    if device.type == "cuda":  # the current one: ``settle_cuda`` has made it so
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


class _Training:
    def __init__(
        self,
        task: Task,
        loop: TrainingContext,
        settings: TrainingConfig,
        run: RunConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        self.task, self.loop, self.settings, self.run_config, self.device = task, loop, settings, run, device
        self.seed, self.ranks = seed, ranks(task.model)
        self.steps = total_steps(settings, task.train_samples)
        self.parameters = [p for p in task.model.parameters() if p.requires_grad]
        self.order = SampleOrder(task.train_samples, seed, loop.stage)
        # Batch statistics of a single sample do not exist where a layer sees one value a channel.
        has_statistics = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in task.model.modules())
        self.most_parts = max(1, settings.batch_size // max(2 if has_statistics else 1, self.ranks.size))
        if has_statistics and settings.batch_size < 2:
            raise StageError(
                _("{stage}: batch_size 1 leaves nothing to take batch statistics of").format(stage=loop.stage),
                _("set the stage's batch_size to 2 or more"),
            )
        if settings.batch_size < self.ranks.size:
            raise StageError(
                _("{stage}: batch_size {batch} leaves some of {count} processes without a sample").format(
                    stage=loop.stage, batch=settings.batch_size, count=self.ranks.size
                ),
                _("use a larger batch_size for the stage, or --nproc {count}").format(count=settings.batch_size),
            )
        self.parts = min(settings.accumulate, self.most_parts)
        self.step = 0
        self.saver = Saver(loop.store, loop.checkpoint_saved)
        self.last_loss: Tensor | None = None  # of a step whose figures were not read
        self.best = math.inf
        self.validate_every = settings.validate_every or max(1, self.steps // 10)
        self.average = WeightAverage(task.model, settings.ema_decay)
        self.optimizer = StageOptimizer(task.model, settings, device)
        self.buffers = list(task.model.buffers())
        self.buffers_before = [torch.empty_like(b) for b in self.buffers]

    def run(self) -> None:
        try:
            self._run()
        finally:
            self.saver.let_end()

    def _run(self) -> None:
        self._restore()
        self.saved_at, self.saved_step = time.monotonic(), self.step
        phase = self.task.phase(self.step, self.steps)
        self.task.enter(phase)
        if self.step == 0 and self.steps and phase == FULL_QUANTISATION_PHASE:
            self._validate(phase)
        while self.step < self.steps:
            loss, norm, agreed = self._step()
            self.saver.settle()
            self.step += 1
            self._report(loss, norm, phase)
            before, phase = phase, self.task.phase(self.step, self.steps)
            if phase != before and self.step < self.steps:
                self.task.enter(phase)
                self.loop.event("phase", phase=phase, step=self.step)
            reference = phase == FULL_QUANTISATION_PHASE != before  # what the end of the stage is compared with
            if self.step == self.steps or reference or self.step % self.validate_every == 0:
                self._validate(phase)
            stop, due = agreed or self._wishes(self.step)
            if due or stop:
                self._save(wait=stop or self.step == self.steps)
                self.saved_at, self.saved_step = time.monotonic(), self.step
            if stop:
                raise Stopped
        self.average.apply()

    def _step(self) -> tuple[Tensor, Tensor, tuple[bool, bool] | None]:
        """Loss and gradient norm of one step, left on the device: to read them would wait for it.

        And whether the ranks agreed to stop or to save after it.
        """
        self.optimizer.lr = learning_rate(self.settings, self.step, self.steps)
        batch = self.settings.batch_size
        indices = range(self.step * batch, (self.step + 1) * batch)
        while True:
            self._copy_buffers(self.buffers_before, self.buffers)
            try:
                loss = self._accumulate(indices)
                agreed = self.ranks.sum_(self.parameters, loss, lambda: self._wishes(self.step + 1))
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self.ranks.out_of_memory()
            self._halve()  # outside the handler: the traceback keeps the failed step's tensors alive
        gradients = [own(p.grad) for p in self.parameters if p.grad is not None]
        norm = self.ranks.norm(nn.utils.get_total_norm(gradients, foreach=True))
        if self.device.type == "cpu":  # a GPU would be waited for; there a checkpoint is what stays finite
            self._check_finite(float(loss), _("the loss"), self.step)
            self._check_finite(float(norm), _("the gradient"), self.step)
        torch._foreach_mul_(gradients, ((self.settings.grad_clip or math.inf) / (norm + 1e-6)).clamp(max=1.0))
        self.optimizer.step()
        self.task.hold()
        self.optimizer.zero_grad()
        self.average.update()
        return loss, norm, agreed

    def _check_finite(self, value: float, what: str, step: int) -> None:
        """Raise where a figure of a step is not finite; nothing of it has been saved."""
        if math.isfinite(value):
            return
        gradients = {n: p.grad for n, p in self.task.model.named_parameters() if p.grad is not None}
        where = self._not_finite(self._weights()) or self._not_finite(gradients) or _("the batch itself")
        raise self._diverged(what, where, step)

    def _diverged(self, what: str, where: str, step: int) -> DivergedError:
        text = _("{stage} diverged: {what} at step {step} is not finite, first in {where}")
        return DivergedError(
            text.format(stage=self.loop.stage, what=what, step=step, where=where), _("lower the stage's lr")
        )

    def _not_finite(self, tensors: Mapping[str, Tensor]) -> str:
        return not_finite(tensors, self.ranks.any_)

    def _weights(self) -> dict[str, Tensor]:
        """What a checkpoint must hold finite. Observers' ranges begin at infinity, and are not trained."""
        weights = {n: p for n, p in self.task.model.named_parameters() if p.requires_grad}
        return weights | {f"average.{n}": t for n, t in self.average.average.items()}

    @staticmethod
    @torch.no_grad()
    def _copy_buffers(to: list[Tensor], source: list[Tensor]) -> None:
        """All at once: a fake-quantised model has hundreds, of one number each."""
        if to:
            torch._foreach_copy_(to, source)

    def _accumulate(self, indices: Sequence[int]) -> Tensor:
        """Gradients of one batch, in as many parts as memory asks for; the loss, a scalar on the device."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        bounds = [n * len(indices) // self.parts for n in range(self.parts + 1)]
        for start, end in pairwise(bounds):
            part = indices[start:end]
            following = range(indices[end - 1] + 1, indices[end - 1] + 1 + len(part))
            with self.ranks.part(part) as local:
                with self._autocast():
                    loss = self.task.loss(self.order(local), SampleDraws(self.seed, self.loop.stage, local, part))
                if following[-1] < self.steps * len(indices):
                    self.task.prefetch(self.order(self.ranks.own_indices(following)))
                share = len(local) / len(indices)
                (loss * share).backward()
            total += loss.detach().double() * share
        return total

    def _halve(self) -> None:
        """Back to the start of the step after a failed allocation, with twice the parts."""
        self.optimizer.zero_grad()
        self._copy_buffers(self.buffers, self.buffers_before)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.parts >= self.most_parts:
            message = _("out of memory even in the smallest parts of a batch, {size} samples at a time")
            raise StageError(message.format(size=self.part_size), _more_memory()) from MemoryError()
        self.parts = min(self.most_parts, self.parts * 2)
        self._save(wait=True)
        self.loop.event("out_of_memory", step=self.step, accumulate=self.parts, part_size=self.part_size)
        self.loop.log(
            _("out of memory at step {step}: going on with {size} samples at a time, same batch size").format(
                step=self.step, size=self.part_size
            )
        )

    @property
    def part_size(self) -> int:
        """Samples that are in memory at a time, at most."""
        return math.ceil(self.settings.batch_size / self.parts)

    def _autocast(self) -> torch.autocast:
        kind = self.device.type
        requested = self.settings.amp and kind in self.task.bfloat16_on
        return torch.autocast(kind, torch.bfloat16, enabled=requested and _has_bfloat16(self.device))

    def _report(self, loss: Tensor, norm: Tensor, phase: str) -> None:
        """Show a step. Figures of a GPU are read only where they are kept, or a checkpoint hangs on them."""
        logged = self.step % self.run_config.log_every == 0 or self.step in (1, self.steps)
        if self.device.type != "cpu" and not logged:
            self.last_loss = loss
            self.loop.progress(self.step, self.steps, phase=phase)
            return
        value = float(loss)
        self._check_finite(value, _("the loss"), self.step - 1)
        self.last_loss = None
        self.loop.progress(self.step, self.steps, loss=value, phase=phase)
        if logged:
            self._check_finite(float(norm), _("the gradient"), self.step - 1)
            self.loop.metrics(self.step, loss=value, lr=self.optimizer.lr, grad_norm=float(norm), phase=phase)

    def _validate(self, phase: str) -> None:
        if not self.ranks.validates:
            return
        with self.average.applied(), torch.no_grad():
            value = self.task.validate(self.part_size)
        self._check_finite(value, _("the validation loss"), self.step)
        self.best = min(self.best, value)
        self.loop.metrics(self.step, val_loss=value, phase=phase)
        self.loop.progress(self.step, self.steps, val_loss=value, best_val_loss=self.best)

    def _wishes(self, step: int) -> tuple[bool, bool]:
        """Whether to stop, and whether to save, after so many steps."""
        if step == self.steps:
            return False, True
        every, minutes = self.run_config.checkpoint_steps, self.run_config.checkpoint_minutes
        by_steps = every > 0 and step - self.saved_step >= every
        due = by_steps or (minutes > 0 and time.monotonic() - self.saved_at >= 60 * minutes)
        return self.loop.stop_requested(), due

    def _save(self, wait: bool) -> None:
        """Save this step; ``wait``: until it is durable."""
        optimizer = self.optimizer.state_dict()
        where = self._not_finite(self._weights()) or self._not_finite(tensors_in(optimizer, "optimizer"))
        if where:
            raise self._diverged(_("what was to be saved"), where, self.step)
        if self.last_loss is not None:
            self._check_finite(float(self.last_loss), _("the loss"), self.step - 1)
        self.saver.settle(wait=True)  # its copy goes before another one is made
        payload, copied = self.ranks.whole({
            "step": self.step,
            "model": self.task.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": optimizer,
            "parts": self.parts,
            "best": self.best,
            "threads": torch.get_num_threads(),
        })  # fmt: skip
        if self.ranks.first:
            self.saver.save(self.step, payload, wait, copied)

    def _restore(self) -> None:
        checkpoint = self.loop.store.latest()
        if checkpoint is None:
            return
        _step, payload = checkpoint
        load_whole(self.task.model, payload["model"])  # type: ignore[arg-type]
        self.average.load_state_dict(payload["average"])  # type: ignore[arg-type]
        self.optimizer.load_state_dict(payload["optimizer"])  # type: ignore[arg-type]
        self.step = int(payload["step"])  # type: ignore[call-overload]
        self.parts = max(self.parts, int(payload["parts"]))  # type: ignore[call-overload]
        self.best = float(payload["best"])  # type: ignore[arg-type]
        where = self._not_finite(self._weights())  # of an older ubq, which saved such
        if where:
            raise self._diverged(_("its checkpoint"), where, self.step)


@torch.no_grad()
def not_finite(tensors: Mapping[str, Tensor], any_: Callable[[Tensor], Tensor] = lambda flags: flags) -> str:
    """Name of the first tensor that holds a NaN or an infinity; empty where none does.

    Args:
        any_: of 0 or 1 for each tensor, by what this process holds of it: the largest over all that hold the others.
    """
    floats = {n: own(t) for n, t in tensors.items() if t.is_floating_point() and t.numel()}
    if not floats:
        return ""
    # the largest magnitude of a tensor is finite only where all of it is; one answer to wait for
    norms = torch._foreach_norm([t if t.numel() else t.new_zeros(1) for t in floats.values()], math.inf)
    lost = any_(1.0 - torch.stack([n.isfinite() for n in norms]).float()).tolist()
    return next((name for name, flag in zip(floats, lost, strict=True) if flag), "")


def tensors_in(value: object, name: str) -> dict[str, Tensor]:
    """The tensors in nested dictionaries and lists, by dotted name."""
    if isinstance(value, Tensor):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return {n: t for key, inner in items for n, t in tensors_in(inner, f"{name}.{key}").items()}
