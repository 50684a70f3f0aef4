"""The exported file: integers equal to training's, on every engine, alone in a fresh Python."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import STEPS, VARIANTS, calibrated, tiny_model, tiny_recipe
from torch import Tensor, nn

from ubq.config.schema import ExportConfig, QuantConfig
from ubq.data.normalization import Normalization
from ubq.errors import StageError, UsageError
from ubq.export.lower.integer import IntegerLayer, integer_layer, integer_layers
from ubq.export.lower.torchscript import engine, load_torchscript, lower_layer, write_torchscript
from ubq.export.readback.digest import digest, digest_layers
from ubq.export.readback.torchscript import count_file
from ubq.model import ModelSizes, UBDiff
from ubq.quant.analysis import REWRITES, count_model, differences, require_equal
from ubq.quant.generator import Generator, Recipe, deployable
from ubq.quant.layers import QConv2d, QLinear, QLinearDynamic, QuantLayer
from ubq.quant.phases import phase_set, quant_layers, set_phase
from ubq.quant.prepare import calibrate
from ubq.quant.ten_bit import COPIES
from ubq.runtime.processor import adds_in_32_bits, exact_engine
from ubq.stages.device import VECTOR_MATH
from ubq.upstream.names import our_name

ENGINES = ("x86", "qnnpack", "fbgemm", "onednn")


def written(generator: Generator, folder: Path, quant: QuantConfig) -> Path:
    path = folder / "generator.pt"
    write_torchscript(generator, path, quant.backend, quant.time_tables)
    return path


@pytest.fixture(scope="module", params=VARIANTS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Generator, Path]:
    """A calibrated generator and its file."""
    generator = calibrated(tiny_model(request.param), tiny_recipe(request.param))
    return generator, written(generator, tmp_path_factory.mktemp(request.param), QuantConfig())


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


# ---- one layer -------------------------------------------------------------------------------


def layer_and_input(kind: str, scheme: str, backend: str) -> tuple[QuantLayer, Tensor]:
    torch.manual_seed(0)
    quant = QuantConfig(scheme=scheme, backend=backend)  # type: ignore[arg-type]
    layer: QuantLayer
    if kind == "conv2d":
        layer = QConv2d(nn.Conv2d(6, 8, (1, 3), stride=(1, 2), padding=(0, 1)), quant)
        x = torch.randn(4, 6, 1, 33)
    elif kind == "grouped":
        layer = QConv2d(nn.Conv2d(6, 8, 3, padding=1, groups=2, bias=False), quant)
        x = torch.randn(2, 6, 9, 9)
    elif kind == "linear":
        layer, x = QLinear(nn.Linear(20, 13), quant), torch.randn(3, 5, 20)
    else:
        layer, x = QLinearDynamic(nn.Linear(20, 301), quant), torch.randn(4, 20)
    calibrate(layer, [lambda: layer(0.8 * x)])  # some values lie outside the range
    set_phase(layer, "frozen")
    return layer.eval(), x


@torch.no_grad()
@pytest.mark.parametrize("backend", ENGINES)
@pytest.mark.parametrize("scheme", ["default", "aggressive"])
@pytest.mark.parametrize("kind", ["conv2d", "grouped", "linear", "linear_dynamic"])
def test_training_integers_and_kernel_agree(kind: str, scheme: str, backend: str) -> None:
    layer, x = layer_and_input(kind, scheme, backend)
    integers = integer_layer("layer", layer)
    trained = layer(x)
    with engine(backend):
        kernel = lower_layer(integers)(x)
    if integers.input is None or integers.output is None:
        assert relative(kernel, trained) < 1e-5
        return
    steps = (kernel - trained) / integers.output.scale
    assert steps.abs().max() < 1.001, "more than one step of the output grid"
    assert (steps.abs() > 0.5).float().mean() < 0.002, "rounding differs in more than a few places"
    levels = (x / integers.input.scale).round() + integers.input.zero_point
    reference = integers.reference(levels.clamp(0, integers.levels))
    ours = (kernel / integers.output.scale).round().to(torch.int64) + integers.output.zero_point
    assert (ours - reference).abs().max() <= 1
    assert (ours != reference).float().mean() < 0.002
    assert int(reference.max()) <= integers.levels


@torch.no_grad()
def test_weight_scales_do_not_depend_on_the_phase() -> None:
    layer, _x = layer_and_input("conv2d", "aggressive", "x86")
    frozen = integer_layer("layer", layer)
    set_phase(layer, "float")
    again = integer_layer("layer", layer)
    assert torch.equal(frozen.weight, again.weight)
    assert torch.equal(frozen.scales, again.scales)


def test_an_uncalibrated_layer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layer\.one was never calibrated"):
        integer_layer("layer.one", QLinear(nn.Linear(2, 2), QuantConfig()))


# ---- the whole file --------------------------------------------------------------------------


@torch.no_grad()
def test_the_file_computes_what_was_trained(exported: tuple[Generator, Path]) -> None:
    generator, path = exported
    latent = torch.rand(4, 1, 16) * 2 - 1
    many = 64  # where rounding tips one level over, the layers behind it follow: a single sample may be 3 % off
    x, time = torch.randn(many, 1, 16), generator.sampler.times[1].expand(many)
    bound = 0.02 if exact_engine("x86") == "x86" else 0.03  # another engine rounds elsewhere, as the next test allows
    with engine("x86"):
        file = load_torchscript(path, "x86")
        for ours, theirs in zip(generator.decode_normalised(latent), file.decode_normalised(latent), strict=True):
            assert relative(theirs, ours) < bound / 2
        assert relative(file.unet(x, time), generator.unet(x, time)) < bound
    with phase_set(generator, "float"):
        assert relative(generator.unet(x, time), file.unet(x, time)) > 1e-3, "the file is not float"


@torch.no_grad()
@pytest.mark.parametrize("backend", ENGINES)
def test_every_engine_runs_the_same_file(exported: tuple[Generator, Path], backend: str) -> None:
    if backend == "fbgemm" and not adds_in_32_bits():
        pytest.skip("fbgemm clips the sums of 8-bit activations on this processor; files made for it have seven bits")
    _generator, path = exported
    latent = torch.rand(4, 1, 16) * 2 - 1
    with engine("x86"):
        reference = load_torchscript(path, "x86").decode_normalised(latent)
    with engine(backend):
        file = load_torchscript(path, backend)
        for ours, theirs in zip(reference, file.decode_normalised(latent), strict=True):
            assert relative(theirs, ours) < 0.03
        velocity, seismic = file(2)
    assert velocity.shape == (2, 1, 70, 70)
    assert seismic.shape == (2, 5, 30, 7)
    assert torch.isfinite(velocity).all()
    assert torch.isfinite(seismic).all()
    assert velocity.min() >= 1500 - 1
    assert velocity.max() <= 4500 + 1


@torch.no_grad()
def test_forward_is_decode_of_sample(exported: tuple[Generator, Path]) -> None:
    _generator, path = exported
    with engine("qnnpack"):
        file = load_torchscript(path, "qnnpack")
        torch.manual_seed(5)
        whole = file(3)
        torch.manual_seed(5)
        x_T = torch.randn(3, 1, 16)
        noise = torch.randn(STEPS - 1, 3, 1, 16)
        latent = file.sample(x_T, noise, STEPS)
        assert latent.shape == (3, 1, 16)
        for a, b in zip(whole, file.decode(latent), strict=True):
            assert torch.equal(a, b)
        torch.manual_seed(6)
        assert not torch.equal(file(3)[0], whole[0])
        assert not file.sample(x_T, noise, STEPS).requires_grad


def test_no_operator_of_the_file_is_of_those_that_race_in_mkl(exported: tuple[Generator, Path]) -> None:
    graph = load_torchscript(exported[1], "qnnpack").inlined_graph
    assert graph.findAllNodes("aten::sigmoid"), "in place of tanh"
    for name in VECTOR_MATH:
        assert not graph.findAllNodes(f"aten::{name}"), "a seeded call would not always repeat in a fresh process"


def test_step_counts_are_offered_by_name(tmp_path: Path) -> None:
    recipe = tiny_recipe("paper", export=ExportConfig(steps=4, step_choices=(2, 9)))
    generator = calibrated(tiny_model("paper"), recipe)
    with engine("x86"):
        file = load_torchscript(written(generator, tmp_path, recipe.quant), "x86")
        torch.manual_seed(0)
        default = file(1)[0]
        torch.manual_seed(0)
        assert torch.equal(file(1, 4)[0], default)
        for steps in (2, 9):
            assert torch.isfinite(file(1, steps)[0]).all()
        with pytest.raises(Exception, match=r"steps=3 is not offered by this file, which has steps=\[4, 2, 9\]"):
            file(1, 3)


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("off", [*REWRITES, "all"])
def test_every_rewrite_can_be_turned_off(off: str, variant: str, tmp_path: Path) -> None:
    quant = QuantConfig(**dict.fromkeys(REWRITES if off == "all" else [off], False))
    generator = calibrated(tiny_model(variant), tiny_recipe(variant, quant))
    path = written(generator, tmp_path, quant)
    with engine("x86"):
        file = load_torchscript(path, "x86")
        assert torch.isfinite(file(2)[1]).all()
        model, graph = count_model(generator, quant), count_file(load_torchscript(path, "x86"))
    assert differences(model, graph) == []
    kept = [x for x in model.layers if x.weighted and not x.quantised]
    assert all(x.reason for x in kept)
    if off in ("convert_conv1d", "all"):
        assert (model.conv1d.quantised, model.conv1d.total) == (0, 75)
        assert all("convert_conv1d" in x.reason for x in kept if x.type == "Conv1d")


@torch.no_grad()
def test_a_float_generator_is_written_by_the_same_code(tmp_path: Path) -> None:
    model = tiny_model("paper")
    generator = deployable(model, tiny_recipe("paper"))
    path = written(generator, tmp_path, QuantConfig())
    file = load_torchscript(path, "x86")
    torch.manual_seed(2)
    theirs = file(2)
    torch.manual_seed(2)
    ours = generator(2)
    assert relative(theirs[0], ours[0]) < 1e-5
    graph = count_file(file)
    assert graph.weight_layers.quantised == 0
    constants = {c["name"]: c for c in graph.float_constants}
    head = constants["seismic_decoder.output.weight"]
    assert (head["use"], head["bytes"]) == (["aten::linear"], 4 * 40 * 5 * 30 * 7)
    assert graph.weight_layers.total == 98


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_golden_chain_through_the_exported_float_file(shared: Path, variant: str, tmp_path: Path) -> None:
    with np.load(shared / "upstream" / f"golden_{variant}.npz") as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    hyper = json.loads(arrays["hyper"].numpy().tobytes())
    sizes = ModelSizes(
        variant=variant,  # type: ignore[arg-type]
        encoder_dim=hyper["unet"]["dim"],
        encoder_dims=(4, 4, 8, 8),
        dim_mults=tuple(hyper["unet"]["dim_mults"]),
        diffusion_steps=hyper["diffusion"]["timesteps"],
        velocity_latent=8,
        velocity_dims=(4, 4, 8, 8, 16),
        seismic_latent=40,
        seismic_samples=30,
        receivers=7,
    )
    model = UBDiff(sizes).eval()
    prefix = "unet/state/"
    names = [n for n in arrays if n.startswith(prefix)]
    state = {str(our_name("unet." + n.removeprefix(prefix))).removeprefix("unet."): arrays[n] for n in names}
    model.unet.load_state_dict(state)
    recipe = Recipe(sizes, Normalization(-25.0, 50.0, 1500.0, 4500.0), QuantConfig(), ExportConfig(solver="ddpm"))
    file = load_torchscript(written(deployable(model, recipe), tmp_path, recipe.quant), "x86")
    x_T, noise = arrays["diffusion/in/x_T"], arrays["diffusion/in/step_noise"]
    reference = arrays["diffusion/out/sample"]
    assert (file.sample(x_T, noise, 0) - reference).abs().max() <= 1e-4 * reference.abs().max()
    assert (file.sample(x_T, -noise, 0) - reference).abs().max() > 1e-2, "the noise is used"
    with pytest.raises(Exception, match="steps-1 draws"):
        file.sample(x_T, noise[1:], 0)


FRESH = """
import json, sys
assert not any("ubq" in name for name in sys.modules)
import torch
torch.backends.quantized.engine = "qnnpack"
model = torch.jit.load(sys.argv[1])
torch.manual_seed(0); first = model(2)
torch.manual_seed(0); again = model(2)
other = model(2)
assert "ubq" not in sys.modules
print(json.dumps({
    "shapes": [list(t.shape) for t in first],
    "finite": all(bool(torch.isfinite(t).all()) for t in first),
    "repeats": all(torch.equal(a, b) for a, b in zip(first, again)),
    "differs": not torch.equal(first[0], other[0]),
    "range": [float(first[0].min()), float(first[0].max())],
    "normalization": list(model.normalization), "solver": model.sampler.solver, "steps": list(model.sampler.steps),
}))
"""


def test_the_file_needs_nothing_but_torch(exported: tuple[Generator, Path], tmp_path: Path) -> None:
    _generator, path = exported
    done = subprocess.run(
        [sys.executable, "-I", "-c", FRESH, str(path.resolve())],
        cwd=tmp_path, env={"PATH": "/usr/bin", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["shapes"] == [[2, 1, 70, 70], [2, 5, 30, 7]]
    assert seen["finite"]
    assert seen["repeats"]
    assert seen["differs"]
    assert 1499 <= seen["range"][0] < seen["range"][1] <= 4501
    assert seen["normalization"] == [-25.0, 50.0, 1500.0, 4500.0]
    assert (seen["solver"], seen["steps"]) == ("dpmpp2m", [STEPS])


# ---- proof that it is int8 -------------------------------------------------------------------


def test_the_graph_says_what_the_model_says(exported: tuple[Generator, Path]) -> None:
    generator, path = exported
    with engine("x86"):
        graph = count_file(load_torchscript(path, "x86"))
    model = count_model(generator, QuantConfig())
    assert differences(model, graph) == []
    assert model.totals() == graph.totals()
    assert graph.weight_layers.fraction == 1
    assert graph.parameters.fraction == 1
    assert graph.macs.fraction == 1
    assert (graph.conv1d.quantised, graph.conv1d.total) == (75, 75)
    assert graph.leaf_modules.fraction > 0.3
    assert graph.activation_macs > 0
    assert all(c["use"] != ["nothing"] for c in graph.float_constants)


def test_macs_are_those_of_the_shapes(exported: tuple[Generator, Path]) -> None:
    generator, _path = exported
    by_name = {x.name: x for x in count_model(generator, QuantConfig()).layers}
    first = by_name["unet.init_conv.conv.conv"]
    assert (first.parameters, first.macs) == (COPIES * 16 * 7, COPIES * 16 * 16 * 7)
    halved = by_name["unet.downs.0.downsample"]
    assert halved.macs == halved.parameters * 8
    head = by_name["seismic_decoder.output"]
    assert (head.parameters, head.macs) == (40 * 5 * 30 * 7, 40 * 5 * 30 * 7)
    last = by_name["velocity_decoder.output.conv.conv"]
    assert last.macs == last.parameters * 70 * 70


def test_a_layer_left_in_float_makes_the_export_fail(tmp_path: Path) -> None:
    quant = QuantConfig()
    generator = calibrated(tiny_model("paper"), tiny_recipe("paper"))
    layers = integer_layers(generator)
    name = "unet.mid_block1.conv1"
    q = generator.get_submodule(name)
    assert isinstance(q, QConv2d)
    plain = nn.Conv2d(q.weight.shape[1], q.weight.shape[0], (1, 3), padding=(0, 1))
    cheated = calibrated(tiny_model("paper"), tiny_recipe("paper"))
    cheated.set_submodule(name, plain)
    assert name in layers
    with engine("x86"):
        graph = count_file(load_torchscript(written(cheated, tmp_path, quant), "x86"))
    with pytest.raises(StageError, match=name):
        require_equal(count_model(generator, quant), graph)


class Decoy(nn.Module):
    """Computes in float beside an integer layer whose result it drops."""

    def __init__(self, int8: nn.Module, weight: Tensor) -> None:
        super().__init__()
        self.int8, self.weight = int8, nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        self.int8(x)
        return nn.functional.linear(x, self.weight)


def test_an_integer_layer_whose_result_is_dropped_does_not_count(tmp_path: Path) -> None:
    generator = calibrated(tiny_model("paper"), tiny_recipe("paper"))
    name = "velocity_projector.linear"
    layer = generator.get_submodule(name)
    assert isinstance(layer, QLinear)
    integers = integer_layers(generator)[name]
    generator.set_submodule(name, Decoy(lower_layer(integers), layer.weight.detach()))
    with engine("x86"):
        graph = count_file(load_torchscript(written(generator, tmp_path, QuantConfig()), "x86"))
    by_name = {x.name: x for x in graph.layers}
    assert not by_name[name].quantised
    assert f"{name}.int8" not in {x.name for x in graph.layers if x.quantised}


@torch.no_grad()
def test_every_packed_weight_matters(exported: tuple[Generator, Path]) -> None:
    """Change one layer's integers and the outputs change: no quantised operator is dead."""
    generator, _path = exported
    latent, x = torch.rand(1, 1, 16), torch.randn(1, 1, 16)
    time = generator.sampler.times[:1]

    def outputs() -> tuple[Tensor, ...]:
        return (generator.unet(x, time), *generator.decode_normalised(latent))

    before = outputs()
    for name, layer in quant_layers(generator).items():
        if "time_mlp" in name:
            continue
        kept = layer.weight.clone()
        layer.weight.mul_(torch.randn_like(kept))
        changed = [not torch.equal(a, b) for a, b in zip(before, outputs(), strict=True)]
        layer.weight.copy_(kept)
        assert any(changed), name
    assert all(torch.equal(a, b) for a, b in zip(before, outputs(), strict=True))


def test_the_digest_is_that_of_the_integers_and_sees_every_change(exported: tuple[Generator, Path]) -> None:
    generator, path = exported
    layers = integer_layers(generator)
    expected = digest_layers(layers.values())
    assert digest(path) == expected
    assert digest_layers(reversed(list(layers.values()))) == expected
    name = "unet.mid_block1.conv1"
    layer = layers[name]
    assert layer.input is not None
    changes: list[IntegerLayer] = [
        replace(layer, weight=layer.weight.flip(0)),
        replace(layer, scales=layer.scales * 2),
        replace(layer, bias=layer.bias + 1e-3),
        replace(layer, input=replace(layer.input, zero_point=layer.input.zero_point ^ 1)),
        replace(layer, output=replace(layer.input, scale=layer.input.scale * 2)),
    ]
    hashes = {digest_layers({**layers, name: change}.values()) for change in changes} | {expected}
    assert len(hashes) == len(changes) + 1


def test_the_digest_can_be_recomputed_by_its_description(exported: tuple[Generator, Path]) -> None:
    """From the file alone, by the text of the docstring and nothing of ours."""
    _generator, path = exported
    sha = hashlib.sha256()
    with engine("qnnpack"):
        modules = dict(torch.jit.load(str(path)).named_modules())
        for name in sorted(n for n, m in modules.items() if hasattr(m, "packed")):
            layer = modules[name]
            weight, bias = layer.packed.unpack()
            sha.update(weight.int_repr().numpy().tobytes())
            sha.update(weight.q_per_channel_scales().numpy().astype("<f4").tobytes())
            sha.update(weight.q_per_channel_zero_points().numpy().astype("<i8").tobytes())
            sha.update(bias.detach().numpy().astype("<f4").tobytes())
            for side in ("input", "output"):
                if hasattr(layer, f"{side}_scale"):
                    numbers = getattr(layer, f"{side}_scale"), getattr(layer, f"{side}_zero_point")
                    sha.update(struct.pack("<fq", *numbers))
    assert digest(path) == sha.hexdigest()


def test_something_else_than_an_exported_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(b"not a model")
    with pytest.raises(UsageError, match="not a TorchScript file"):
        digest(path)
    with pytest.raises(UsageError, match="no quantised engine"), engine("tpu"):
        pass


@torch.no_grad()
def test_parts_that_are_switched_off_stay_float(tmp_path: Path) -> None:
    for parts in (("velocity", "seismic"), ("diffusion",)):
        quant = QuantConfig(**dict.fromkeys(parts, False))
        generator = calibrated(tiny_model("fork"), tiny_recipe("fork", quant))
        model = count_model(generator, quant)
        with engine("x86"):
            graph = count_file(load_torchscript(written(generator, tmp_path, quant), "x86"))
        assert differences(model, graph) == []
        reasons = {x.reason for x in model.layers if x.weighted and not x.quantised}
        assert reasons == {f"quant.{part} is off" for part in parts}


# ---- gathers by the wave equation ------------------------------------------------------------


def test_gathers_of_a_shape_that_cannot_be_modelled_are_refused(exported: tuple[Generator, Path]) -> None:
    generator, path = exported
    assert generator.seismic_decoder.receivers != 70
    backend = QuantConfig().backend
    loaded = load_torchscript(path, backend)
    for call in (lambda: loaded.gathers(torch.full((1, 1, 70, 70), 2000.0)), lambda: loaded.simulate(1)):
        with engine(backend), pytest.raises(torch.jit.Error, match="needs a receiver at each cell across"):
            call()
