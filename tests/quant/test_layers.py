"""Fake-quantised layers: phases, state, gradients, and that they compute what integers compute."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ubq.config.schema import QuantConfig
from ubq.quant import layers
from ubq.quant.layers import PHASES, QConv2d, QLinear, QLinearDynamic, fake_quantise, weight_scale
from ubq.quant.observers import RangeObserver, affine_grid
from ubq.quant.phases import TRAINING_PHASES, phase_at, phase_set, set_phase
from ubq.quant.prepare import calibrate

AGGRESSIVE = QuantConfig()


def linear(quant: QuantConfig = AGGRESSIVE) -> tuple[QLinear, Tensor]:
    torch.manual_seed(0)
    layer, x = QLinear(nn.Linear(12, 7), quant), torch.randn(64, 12)
    calibrate(layer, [lambda: layer(x)])
    return layer, x


@pytest.mark.parametrize(
    ("step", "phase"),
    [(0, "observe"), (4, "observe"), (5, "weights"), (10, "activations"), (50, "frozen"), (99, "frozen")],
)
def test_phases_follow_the_fractions(step: int, phase: str) -> None:
    assert phase_at(step, 100, (0.05, 0.1, 0.5)) == phase


def test_warmup_of_zero_freezes_at_once() -> None:
    assert phase_at(0, 10, (0.0, 0.0, 0.0)) == "frozen"


def test_each_phase_quantises_what_it_should() -> None:
    layer, x = linear()
    outputs = {}
    for phase in PHASES:
        with phase_set(layer, phase):
            layer.eval()
            outputs[phase] = layer(x)
    exact = nn.functional.linear(x, layer.weight, layer.bias)
    for phase in ("float", "calibrate", "observe"):
        assert torch.equal(outputs[phase], exact)
    assert not torch.equal(outputs["weights"], exact)
    assert len(outputs["weights"].unique()) > 256
    assert torch.equal(outputs["activations"], outputs["frozen"])
    assert all(len(column.unique()) <= 256 for column in outputs["frozen"])


@pytest.mark.parametrize("phase", PHASES)
def test_observers_move_only_while_training_and_not_frozen(phase: str) -> None:
    layer, x = linear()
    before = layer.input.observer.high.clone()
    set_phase(layer, phase)
    layer(3 * x)
    moved = not torch.equal(layer.input.observer.high, before)
    assert moved == (phase in ("calibrate", "observe", "weights", "activations"))
    moved_to = layer.input.observer.high.clone()
    if phase in TRAINING_PHASES:
        layer.eval()
        layer(9 * x)
        assert torch.equal(layer.input.observer.high, moved_to), "validation must not move a range"


def test_an_unknown_phase_is_refused() -> None:
    with pytest.raises(ValueError, match="calibrate"):
        set_phase(linear()[0], "frosen")


@pytest.mark.parametrize("phase", PHASES)
def test_a_state_dict_restores_ranges_and_phase(phase: str) -> None:
    layer, x = linear()
    set_phase(layer, phase)
    other = QLinear(nn.Linear(12, 7), AGGRESSIVE)
    other.load_state_dict(copy.deepcopy(layer.state_dict()))
    assert other.phase == phase
    assert torch.equal(other.eval()(x), layer.eval()(x))


@pytest.mark.parametrize("quant", [QuantConfig(scheme="default"), AGGRESSIVE])
def test_weights_lie_on_their_grid(quant: QuantConfig) -> None:
    layer, _x = linear(quant)
    set_phase(layer, "weights")
    scales = layer.weight_scales(None)
    assert len(scales.unique()) == (1 if quant.scheme == "default" else 7)
    levels = layer.quantised_weight() / scales[:, None]
    assert torch.allclose(levels, levels.round(), atol=1e-3)
    assert float(levels.detach().abs().max()) == pytest.approx(127, abs=1e-3)
    assert (layer.quantised_weight() - layer.weight).abs().max() <= 0.5001 * scales.max()


def test_gradients_pass_through_rounding() -> None:
    layer, x = linear()
    with phase_set(layer, "frozen"):
        layer(x).sum().backward()
    rough = layer.weight.grad
    assert rough is not None
    exact = torch.autograd.grad(nn.functional.linear(x, layer.weight, layer.bias).sum(), layer.weight)[0]
    assert float((rough - exact).norm() / exact.norm()) < 0.05


@pytest.mark.parametrize("batch", [1, 5])
def test_the_recomputing_linear_equals_the_plain_one(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    torch.manual_seed(0)
    source, x = nn.Linear(24, 101), torch.randn(batch, 24)
    results = []
    for above in (1 << 24, 0):
        monkeypatch.setattr(layers, "RECOMPUTE_ABOVE", above)
        monkeypatch.setattr(layers, "CHUNK", 240)  # ten rows at a time
        layer = QLinearDynamic(copy.deepcopy(source), AGGRESSIVE)
        set_phase(layer, "frozen")
        given_x = x.clone().requires_grad_()
        out = layer(given_x)
        out.square().sum().backward()
        results.append((out, given_x.grad, layer.weight.grad, layer.bias.grad))
    for plain, recomputed in zip(*results, strict=True):
        assert torch.allclose(plain, recomputed, rtol=1e-4, atol=1e-4)


def test_the_recomputing_linear_holds_no_second_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "RECOMPUTE_ABOVE", 0)
    layer = QLinearDynamic(nn.Linear(64, 4096), AGGRESSIVE)
    set_phase(layer, "frozen")
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        layer(torch.randn(2, 64))
    large = [p for p in kept if p == layer.weight.data_ptr()]
    assert large
    assert len(set(kept)) <= 4  # x, its mask, the weight itself, the scales


def test_observers_take_in_what_autocast_hands_them() -> None:
    """Inside a network autocast makes an input bfloat16; the ranges stay float32."""
    layer, x = linear()
    reference = copy.deepcopy(layer)
    set_phase(layer, "observe")
    set_phase(reference, "observe")
    with torch.autocast("cpu", torch.bfloat16):
        layer(x.bfloat16())
    reference(x.bfloat16().float())
    assert torch.equal(layer.input.observer.low, reference.input.observer.low)
    assert layer.output.observer.high.dtype == torch.float32
    assert int(layer.output.observer.batches) == 2


def test_fake_quantisation_runs_in_float32_under_autocast() -> None:
    layer, x = linear()
    with phase_set(layer, "frozen"), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.float32
        assert torch.isfinite(layer(x)).all()


def test_seven_bits_for_fbgemm() -> None:
    layer, x = linear(QuantConfig(backend="fbgemm"))
    with phase_set(layer, "frozen"):
        assert len(layer(x).unique()) <= 128


def test_a_tiny_channel_with_a_large_bias_fits_32_bits() -> None:
    weight, bias = torch.randn(3, 8), torch.tensor([0.1, 5.0, 0.0])
    weight[1] = 1e-9
    scale = weight_scale(weight, True, bias, torch.tensor(0.01))
    assert (bias.abs() / (scale * 0.01)).max() <= 2**31 - 1


@given(low=st.floats(-1e3, 1e3), width=st.floats(0, 1e3), levels=st.sampled_from([127, 255]))
@settings(max_examples=200)
def test_grids_hold_zero_and_their_range(low: float, width: float, levels: int) -> None:
    lowest, highest = torch.tensor(low), torch.tensor(low + width)
    scale, zero = affine_grid(lowest, highest, levels)
    assert 0 <= int(zero) <= levels
    assert float(scale) > 0
    values = torch.stack((lowest, highest, torch.tensor(0.0)))
    on_grid = torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, levels)
    assert (on_grid - values).abs().max() <= float(scale) * 0.51
    assert on_grid[2] == 0


def observed(kind: str, x: Tensor, **keys: float) -> tuple[float, float]:
    observer = RangeObserver(QuantConfig(observer=kind, **keys), 255)  # type: ignore[arg-type]
    observer.observe(x)
    return float(observer.low), float(observer.high)


def test_observers_differ_where_they_should() -> None:
    torch.manual_seed(0)
    x = torch.cat((torch.randn(50_000), torch.tensor([60.0])))
    assert observed("moving_average", x)[1] == 60.0
    assert observed("percentile", x, percentile=0.999)[1] == pytest.approx(3.1, abs=0.3)
    low, high = observed("mse", x)
    assert high < 60.0
    errors = []
    for top in (high, 60.0):
        grid = affine_grid(torch.tensor(low), torch.tensor(top), 255)
        errors.append((torch.fake_quantize_per_tensor_affine(x, *grid, 0, 255) - x).square().mean())
    assert errors[0] < errors[1]


def test_default_scheme_takes_min_and_max_whatever_observer_says() -> None:
    assert RangeObserver(QuantConfig(scheme="default", observer="mse"), 255).kind == "moving_average"


def test_first_batches_are_averaged_evenly() -> None:
    observer = RangeObserver(AGGRESSIVE, 255)
    for top in (1.0, 2.0, 6.0):
        observer.observe(torch.tensor([0.0, top]))
    assert float(observer.high) == pytest.approx(3.0)


def test_geometry_without_integer_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="zeros"):
        QConv2d(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), AGGRESSIVE)


@given(
    scale=st.floats(1e-4, 10.0), zero=st.integers(0, 255), levels=st.sampled_from([127, 255]), seed=st.integers(0, 99)
)
@settings(max_examples=100)
def test_our_fake_quantisation_is_pytorchs_to_the_bit(scale: float, zero: int, levels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    zero_point = torch.tensor(min(zero, levels), dtype=torch.int32)
    wanted = torch.tensor(scale)
    x = torch.randn(500, generator=generator) * wanted * 100
    results = []
    for function in (fake_quantise, lambda x, s, z, n: torch.fake_quantize_per_tensor_affine(x, s, z, 0, n)):
        leaf = x.clone().requires_grad_()
        out = function(leaf, wanted, zero_point, levels)
        out.sum().backward()
        results.append((out.detach(), leaf.grad))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)
