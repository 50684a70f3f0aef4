"""The training loop: exact resume, memory back-off, divergence, phases."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ubq.config.schema import DiffusionTraining, RunConfig
from ubq.errors import DivergedError, StageError
from ubq.training.context import Stopped
from ubq.training.loop import FULL_QUANTISATION_PHASE, learning_rate, total_steps, train
from ubq.training.randomness import SampleDraws, SampleOrder

CPU = torch.device("cpu")
DATA = torch.randn(24, 6, generator=torch.Generator().manual_seed(1))


class Regression:
    """A noisy linear fit with batch statistics: everything a checkpoint has to hold."""

    bfloat16_on: tuple[str, ...] = ()

    def __init__(self, phases: tuple[str, ...] = ("train",)) -> None:
        torch.manual_seed(7)
        self.model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
        self.train_samples = len(DATA)
        self.phases = phases
        self.validated_in: list[str] = []
        self.now = ""

    def phase(self, step: int, steps: int) -> str:
        return self.phases[min(step * len(self.phases) // max(steps, 1), len(self.phases) - 1)]

    def enter(self, phase: str) -> None:
        self.now = phase
        self.model.train()

    def hold(self) -> None: ...

    def loss(self, samples: Tensor, draws: SampleDraws) -> Tensor:
        x = DATA[samples]
        return (self.model(x + 0.1 * draws.normal(6)) - x.sum(1, keepdim=True)).square().mean()

    def prefetch(self, samples: Tensor) -> None: ...

    def validate(self, batch: int) -> float:
        self.validated_in.append(self.now)
        self.model.eval()
        value = float((self.model(DATA) - DATA.sum(1, keepdim=True)).square().mean())
        self.model.train()
        return value


class Context:
    """Keeps what the loop reports; ``stop_at`` asks for a stop after that step."""

    stage = "fit"

    def __init__(self, saved: dict[int, dict] | None = None, stop_at: int = -1) -> None:
        self.saved = saved if saved is not None else {}
        self.rows: list[dict] = []
        self.events: list[dict] = []
        self.stop_at = stop_at
        self.at = 0

    @property
    def store(self) -> Context:
        return self

    def save(self, step: int, payload: dict) -> None:
        self.saved[step] = copy.deepcopy(payload)

    def latest(self) -> tuple[int, dict] | None:
        return (max(self.saved), copy.deepcopy(self.saved[max(self.saved)])) if self.saved else None

    def progress(self, step: int, steps: int, **figures: float | str) -> None:
        self.at = step

    def metrics(self, step: int, **figures: float | str) -> None:
        self.rows.append({"step": step, **figures})

    def event(self, kind: str, **fields: object) -> None:
        self.events.append({"kind": kind, **fields})

    def log(self, message: str) -> None:
        pass

    def stop_requested(self) -> bool:
        return self.at == self.stop_at

    def checkpoint_saved(self, step: int) -> None:
        pass


def settings(**changes: object) -> DiffusionTraining:
    return DiffusionTraining(steps=20, batch_size=5, lr=1e-2, **changes)


def fit(context: Context, task: Regression | None = None, seed: int = 3, **changes: object) -> Regression:
    task = task or Regression()
    train(task, context, settings(**changes), RunConfig(log_every=1, checkpoint_steps=4), seed, CPU)
    return task


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("stop_at", [1, 7, 13, 19])
def test_an_interrupted_and_resumed_training_equals_an_uninterrupted_one_to_the_bit(
    stop_at: int, optimizer: str
) -> None:
    whole = Context()
    reference = fit(whole, optimizer=optimizer)
    first = Context(stop_at=stop_at)
    with pytest.raises(Stopped):
        fit(first, optimizer=optimizer)
    second = Context(saved=first.saved)
    resumed = fit(second, optimizer=optimizer)
    assert same(reference.model, resumed.model)
    assert first.rows + second.rows == whole.rows


def test_the_optimizer_that_was_asked_for_trains() -> None:
    assert not same(fit(Context()).model, fit(Context(), optimizer="muon").model)


def test_another_seed_gives_other_weights() -> None:
    assert not same(fit(Context()).model, fit(Context(), seed=4).model)


def test_a_crash_repeats_at_most_one_checkpoint_interval() -> None:
    context = Context()
    fit(context)
    del context.saved[20]
    resumed = Context(saved=context.saved)
    fit(resumed)
    assert min(row["step"] for row in resumed.rows) == 17


def test_loss_falls_and_the_average_is_what_is_left() -> None:
    context = Context()
    task = fit(context, ema_decay=0.9)
    losses = [row["loss"] for row in context.rows if "loss" in row]
    assert sum(losses[-5:]) < sum(losses[:5])
    raw = context.saved[20]["model"]["0.weight"]
    assert not torch.equal(task.model[0].weight.detach(), raw)
    assert torch.equal(task.model[0].weight.detach(), context.saved[20]["average"]["average.0.weight"])


def test_a_failed_allocation_halves_the_part_and_keeps_the_batch() -> None:
    class Tight(Regression):
        def loss(self, samples: Tensor, draws: SampleDraws) -> Tensor:
            value = super().loss(samples, draws)  # the statistics have moved by the time the allocation fails
            if len(samples) > 3:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ...")
            return value

    context = Context()
    task = fit(context, Tight())
    event = next(e for e in context.events if e["kind"] == "out_of_memory")
    assert event["accumulate"] == 2
    assert task.model[1].num_batches_tracked == 2 * 20, "the failed attempt left its mark on the batch statistics"
    assert same(task.model, fit(Context(), accumulate=2).model)


def test_a_single_sample_that_does_not_fit_ends_with_the_fix() -> None:
    class Hopeless(Regression):
        def loss(self, samples: Tensor, draws: SampleDraws) -> Tensor:
            raise MemoryError

    with pytest.raises(StageError, match="out of memory even in the smallest parts of a batch, 3 samples") as caught:
        fit(Context(), Hopeless())
    assert caught.value.fix


def test_no_part_is_a_single_sample_where_batch_statistics_are_taken() -> None:
    seen = []

    class Counts(Regression):
        def loss(self, samples: Tensor, draws: SampleDraws) -> Tensor:
            seen.append(len(samples))
            return super().loss(samples, draws)

    fit(Context(), Counts(), accumulate=5)
    assert seen == [2, 3] * 20
    with pytest.raises(StageError, match="batch_size 1 leaves nothing"):
        train(Regression(), Context(), DiffusionTraining(batch_size=1), RunConfig(), 0, CPU)


def test_missing_memory_outside_a_batch_ends_with_the_fix() -> None:
    class Large(Regression):
        def validate(self, batch: int) -> float:
            raise RuntimeError("CUDA out of memory. Tried to allocate 9.00 GiB")

    with pytest.raises(StageError, match="out of memory, and smaller parts") as caught:
        fit(Context(), Large())
    assert caught.value.fix


def test_other_errors_are_not_taken_for_missing_memory() -> None:
    class Broken(Regression):
        def loss(self, samples: Tensor, draws: SampleDraws) -> Tensor:
            raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        fit(Context(), Broken())


class Explodes(torch.autograd.Function):
    """Passes a tensor on; its gradient is not a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return torch.full_like(gradients[0], torch.nan)


class BadGradient(Regression):
    """Its loss stays finite; from a step on the gradient of its first layer is not."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.calls = at, 0

    def loss(self, samples: Tensor, draws: SampleDraws) -> Tensor:
        self.calls += 1
        if self.calls <= self.at:
            return super().loss(samples, draws)
        hidden = Explodes.apply(self.model[0](DATA[samples]))
        return self.model[2](self.model[1](hidden)).square().mean()


class BadValidation(Regression):
    def validate(self, batch: int) -> float:
        return math.nan


def tensors_of(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [t for v in inner for t in tensors_of(v)]


@pytest.mark.parametrize("at", [0, 6, 19])  # the first step, one between, the last
def test_a_gradient_that_is_not_finite_steps_nowhere_and_is_never_saved(at: int) -> None:
    context, task = Context(), BadGradient(at)
    with pytest.raises(DivergedError, match=rf"the gradient at step {at} .* first in 0\.weight"):
        fit(context, task)
    assert max(context.saved, default=0) == at // 4 * 4
    assert all(t.isfinite().all() for t in tensors_of([*context.saved.values(), task.model.state_dict()]))


def test_a_validation_loss_that_is_not_finite_ends_the_stage_too() -> None:
    context = Context()
    with pytest.raises(DivergedError, match="the validation loss at step 2 "):
        fit(context, BadValidation())
    assert not context.saved


@pytest.mark.parametrize("part", ["model", "average"])
def test_a_checkpoint_of_an_older_version_that_is_not_finite_is_named_at_once(part: str) -> None:
    context = Context(stop_at=7)
    with pytest.raises(Stopped):
        fit(context)
    weight = "0.weight" if part == "model" else "average.0.weight"
    context.saved[7][part][weight][0, 0] = torch.inf
    with pytest.raises(DivergedError, match=weight):
        fit(context)
    assert max(context.saved) == 7


def test_divergence_is_one_line_with_a_fix() -> None:
    class Diverging(Regression):
        def loss(self, samples: Tensor, draws: SampleDraws) -> Tensor:
            return super().loss(samples, draws) * math.nan

    with pytest.raises(StageError, match="diverged"):
        fit(Context(), Diverging())


def test_validation_happens_where_full_quantisation_begins_and_only_once() -> None:
    task = Regression(phases=("observe", FULL_QUANTISATION_PHASE))
    context = Context(stop_at=10)
    with pytest.raises(Stopped):
        fit(context, task, validate_every=100)
    resumed = Context(saved=context.saved)
    fit(resumed, Regression(phases=("observe", FULL_QUANTISATION_PHASE)), validate_every=100)
    steps = [row["step"] for row in context.rows + resumed.rows if "val_loss" in row]
    assert steps == [10, 20]
    assert task.validated_in == [FULL_QUANTISATION_PHASE]


def test_every_epoch_sees_every_sample_once() -> None:
    order = SampleOrder(24, seed=0, stage="fit")
    first, second = order(range(24)), order(range(24, 48))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(24))
    assert first.tolist() != second.tolist()


def test_a_draw_depends_on_its_sample_alone() -> None:
    together = SampleDraws(0, "fit", [5, 6, 7])
    alone = SampleDraws(0, "fit", [6])
    assert torch.equal(together.integers(1000)[1:2], alone.integers(1000))
    assert torch.equal(together.normal(4)[1:2], alone.normal(4))
    assert torch.equal(together.time_steps(1000)[1:2], alone.time_steps(1000))


@given(st.integers(0, 2**40), st.integers(0, 2**31), st.sampled_from([8, 16, 64, 100]))
def test_time_steps_of_a_batch_spread_evenly(first: int, seed: int, batch: int) -> None:
    times = SampleDraws(seed, "fit", range(first, first + batch)).time_steps(256)
    assert times.dtype == torch.int64
    in_quarters = torch.bincount(times // 64, minlength=4)
    assert len(in_quarters) == 4
    # grows with the logarithm; of independent draws a quarter would miss by sqrt(3 batch) / 4 on average
    assert (in_quarters - batch / 4).abs().max() <= 1 + math.log2(batch) / 3


def test_every_time_step_is_as_likely() -> None:
    counts = torch.bincount(SampleDraws(0, "fit", range(25_600)).time_steps(256), minlength=256)
    assert counts.min() >= 97
    assert counts.max() <= 103


def test_learning_rate_rises_to_its_peak_and_falls() -> None:
    rates = [learning_rate(settings(lr_warmup=0.2), step, 20) for step in range(20)]
    assert rates[3] == max(rates) == pytest.approx(1e-2)
    assert rates[0] < rates[1] < rates[2] < rates[3]
    assert rates[-1] < 0.05 * max(rates)


def test_epochs_become_steps_over_whole_passes() -> None:
    assert total_steps(DiffusionTraining(epochs=3, batch_size=5), 24) == 15
    assert total_steps(DiffusionTraining(epochs=3, steps=7), 24) == 7
