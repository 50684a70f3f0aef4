"""Muon: orthogonal steps of AdamW's size, for matrices and kernels alone, in whatever memory they lie."""

from __future__ import annotations

import io

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from ubq.config.schema import DiffusionTraining, TrainingConfig
from ubq.training.ema import WeightAverage
from ubq.training.optimizer import RMS_OF_ADAMW, StageOptimizer, orthogonal

CPU = torch.device("cpu")
LR = 0.01


def settings(**changes: object) -> TrainingConfig:
    return DiffusionTraining(optimizer="muon", lr=LR, weight_decay=0.0, **changes)


def steps(model: nn.Module, chosen: TrainingConfig, count: int = 1) -> StageOptimizer:
    """Some steps along random gradients."""
    optimizer = StageOptimizer(model, chosen, CPU)
    rng = torch.Generator().manual_seed(3)
    for _ in range(count):
        for p in model.parameters():
            gradient = torch.randn(p.shape, generator=rng)
            p.grad = gradient.to(memory_format=torch.channels_last) if p.dim() == 4 else gradient
        optimizer.step()
    return optimizer


@hypothesis_settings(deadline=None)  # the first call loads libraries
@given(st.integers(2, 24), st.integers(2, 24), st.integers(0, 2**31), st.sampled_from([1e-4, 1.0, 1e4]))
def test_singular_values_come_near_one_and_keep_their_vectors(rows: int, columns: int, seed: int, scale: float) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    matrix = u @ torch.diag(s.clamp_min(0.1 * float(s.max()))) @ vt * scale
    found = u.T @ orthogonal(matrix[None])[0] @ vt.T
    assert (found.diag() > 0.6).all()
    assert (found.diag() < 1.3).all()
    assert (found - torch.diag(found.diag())).abs().max() < 0.02


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_kernels_take_steps_of_adamws_size_in_their_own_memory(memory: torch.memory_format) -> None:
    layer = nn.Conv2d(8, 16, 3).to(memory_format=memory)
    address, before = layer.weight.data_ptr(), layer.weight.detach().clone()
    steps(layer, settings())
    assert layer.weight.data_ptr() == address
    step = (layer.weight.detach() - before).flatten(1)
    assert torch.linalg.matrix_rank(step) == 16
    values = torch.linalg.svdvals(step) / (LR * RMS_OF_ADAMW * 72**0.5)
    assert (values > 0.6).all()
    assert (values < 1.3).all()
    assert float(step.square().mean().sqrt()) == pytest.approx(LR * RMS_OF_ADAMW, rel=0.25)


def test_both_memory_formats_take_the_same_step() -> None:
    after = []
    for memory in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        layer = nn.Conv2d(4, 6, 3).to(memory_format=memory)
        steps(layer, settings(), 3)
        after.append(layer.weight.detach().contiguous())
    torch.testing.assert_close(after[0], after[1])


def test_biases_norms_and_single_rows_are_adamws() -> None:
    def made() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv1d(4, 8, 3), nn.GroupNorm(2, 8), nn.Conv1d(8, 1, 1), nn.Linear(5, 3))

    muon, adamw = made(), made()
    steps(muon, settings())
    steps(adamw, settings().model_copy(update={"optimizer": "adamw"}))
    differ = {n for n, p in muon.named_parameters() if not torch.equal(p, adamw.get_parameter(n))}
    assert differ == {"0.weight", "3.weight"}


def test_a_saved_state_goes_on_to_the_bit() -> None:
    def made() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 4))

    through, broken = made(), made()
    first = steps(through, settings(), 2)
    saved, weights = first.state_dict(), {n: p.clone() for n, p in through.state_dict().items()}
    saved = torch.load(_bytes_of(saved), weights_only=True)
    first.step()  # with the gradients that lie there
    broken.load_state_dict(weights)
    second = StageOptimizer(broken, settings(), CPU)
    second.load_state_dict(saved)
    for p, q in zip(broken.parameters(), through.parameters(), strict=True):
        p.grad = q.grad
    second.step()
    assert all(torch.equal(p, q) for p, q in zip(broken.parameters(), through.parameters(), strict=True))


def test_a_checkpoint_from_before_muon_is_taken() -> None:
    model = nn.Linear(3, 3)
    steps(model, settings().model_copy(update={"optimizer": "adamw"}))
    old = torch.optim.AdamW(model.parameters())
    old.step()
    StageOptimizer(model, DiffusionTraining(), CPU).load_state_dict(old.state_dict())


def test_the_average_may_swap_the_weights_memory_between_steps() -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 6)
    average = WeightAverage(model, 0.9)
    optimizer = steps(model, settings())
    average.update()
    with average.applied():
        swapped = model.weight.detach().clone()
    before = model.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(model.weight, before)
    with average.applied():
        assert torch.equal(model.weight, swapped)


def test_weight_decay_shrinks_kernels_too() -> None:
    model = nn.Linear(4, 4, bias=False)
    before = float(model.weight.detach().norm())
    optimizer = StageOptimizer(model, settings().model_copy(update={"weight_decay": 50.0}), CPU)
    model.weight.grad = torch.zeros(4, 4)
    optimizer.step()
    assert float(model.weight.detach().norm()) == pytest.approx(0.5 * before)


def _bytes_of(state: dict) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file
