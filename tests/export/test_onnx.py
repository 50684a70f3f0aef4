"""The ONNX files: the integers of the TorchScript file, run in integers, layer by layer as the reference says."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from runtime_parity import assert_same_integers, assert_same_unet_step, assert_within_one_step, input_levels
from tiny import calibrated, tiny_model, tiny_recipe
from torch import nn

from ubq.config.schema import QuantConfig
from ubq.errors import StageError
from ubq.export.lower.integer import integer_layer, integer_layers
from ubq.export.lower.onnx import DIALECT, write_graph, write_onnx
from ubq.export.lower.qdq import lower
from ubq.export.lower.torchscript import engine, lower_layer
from ubq.export.manifest import damaged_files, read_manifest
from ubq.export.readback.onnx import integer_layers_run, require_integers, stored_layers
from ubq.quant.layers import QConv2d, QLinearDynamic
from ubq.quant.phases import set_phase
from ubq.quant.prepare import calibrate
from ubq.runtime import load
from ubq.runtime.onnx import PRECISE, session, session_options

ENDINGS = (".onnx", ".decoders.onnx")


def test_every_layer_of_the_files_is_the_integer_model_to_the_bit(with_onnx) -> None:
    stored = {}
    for ending in ENDINGS:
        stored |= stored_layers(with_onnx.file(ending))
    assert stored.keys() == with_onnx.layers.keys()
    for name, layer in with_onnx.layers.items():
        assert_same_integers(stored[name], layer)


def test_onnxruntime_computes_every_weight_layer_in_integers(with_onnx) -> None:
    ran = {}
    for ending in ENDINGS:
        ran |= integer_layers_run(with_onnx.file(ending))
    assert ran.keys() == with_onnx.layers.keys()
    kinds = {"conv2d": {"QLinearConv"}, "linear": {"QGemm"}, "linear_dynamic": {"DynamicQuantizeMatMul"}}
    for name, layer in with_onnx.layers.items():
        assert ran[name] in kinds[layer.kind], name


def test_a_layer_left_in_float_makes_the_export_fail(with_onnx, tmp_path) -> None:
    """Without the quantisation of its output a convolution has no integer kernel."""
    model = onnx.load(with_onnx.file(".onnx"))
    name = "unet.mid_block1.conv1"
    (dequantise,) = [n for n in model.graph.node if f"{name}.weight" in n.input]
    (conv,) = [n for n in model.graph.node if dequantise.output[0] in n.input]
    (quantise,) = [n for n in model.graph.node if conv.output[0] in n.input]
    (back,) = [n for n in model.graph.node if quantise.output[0] in n.input]
    for node in model.graph.node:
        node.input[:] = [conv.output[0] if i == back.output[0] else i for i in node.input]
    model.graph.node.remove(quantise)
    model.graph.node.remove(back)
    file = tmp_path / "float.onnx"
    onnx.save(model, file)
    unet = [layer for layer in with_onnx.layers if layer.startswith("unet.")]
    require_integers([with_onnx.file(".onnx")], unet)
    with pytest.raises(StageError, match=f"1 of {len(unet)} layers would run in float: {name}"):
        require_integers([file], unet)


def layer_alone(model: onnx.ModelProto, name: str, shape: tuple[int, ...]) -> onnx.ModelProto:
    """The QDQ group of one layer as a model from uint8 levels to uint8 levels."""
    nodes, constants = model.graph.node, {i.name: i for i in model.graph.initializer}
    maker = {o: n for n in nodes for o in n.output}
    (dequantise,) = [n for n in nodes if f"{name}.weight" in n.input]
    (layer,) = [n for n in nodes if dequantise.output[0] in n.input]
    (quantise,) = [n for n in nodes if layer.output[0] in n.input]
    group = [*(maker[i] for i in layer.input), layer, quantise]
    source, target = group[0].input[0], quantise.output[0]
    held = [constants[i] for i in dict.fromkeys(i for n in group for i in n.input) if i in constants]
    inputs = [helper.make_tensor_value_info(source, TensorProto.UINT8, shape)]
    outputs = [helper.make_tensor_value_info(target, TensorProto.UINT8, None)]
    return helper.make_model(
        helper.make_graph(group, name, inputs, outputs, held),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )


def test_every_layer_is_within_one_step_of_the_reference_in_both_runtimes(with_onnx) -> None:
    models = [onnx.load(with_onnx.file(ending)) for ending in ENDINGS]
    elements = differing = 0
    for name, layer in with_onnx.layers.items():
        if layer.input is None or layer.output is None:
            continue
        levels = input_levels(layer)
        model = layer_alone(models[not name.startswith("unet.")], name, tuple(levels.shape))
        alone = onnxruntime.InferenceSession(model.SerializeToString(), session_options())
        (ours,) = alone.run(None, {alone.get_inputs()[0].name: levels.numpy()})
        differing += assert_within_one_step(ours, layer, levels)
        elements += ours.size
        with engine("qnnpack"), torch.no_grad():
            values = (levels.float() - layer.input.zero_point) * layer.input.scale
            theirs = lower_layer(layer)(values) / layer.output.scale + layer.output.zero_point
        assert_within_one_step(theirs.round().numpy(), layer, levels)
    assert differing < 0.002 * elements, "rounding differs in more than a few places"


@torch.no_grad()
def test_the_seismic_head_chooses_its_grid_as_in_training(with_onnx) -> None:
    (name,) = [n for n, layer in with_onnx.layers.items() if layer.kind == "linear_dynamic"]
    head = with_onnx.generator.get_submodule(name)
    assert isinstance(head, QLinearDynamic)
    model = onnx.load(with_onnx.file(".decoders.onnx"))
    (quantise,) = [n for n in model.graph.node if n.op_type == "DynamicQuantizeLinear"]
    part = onnx.utils.Extractor(model).extract_model([quantise.input[0]], ["seismic"])
    x = torch.randn(4, head.weight.shape[1])
    alone = onnxruntime.InferenceSession(part.SerializeToString(), session_options())
    (ours,) = alone.run(None, {quantise.input[0]: x.numpy()})
    wanted = head(x).numpy()
    assert np.linalg.norm(ours.reshape(wanted.shape) - wanted) < 1e-5 * np.linalg.norm(wanted)


def test_one_unet_step_is_the_torchscript_files(with_onnx) -> None:
    assert_same_unet_step(load(with_onnx.file(".onnx"), threads=1), with_onnx.files.model)


def test_the_manifest_lists_both_files(with_onnx) -> None:
    manifest = read_manifest(with_onnx.files.manifest)
    assert {"tiny.pt", "tiny.onnx", "tiny.decoders.onnx"} <= {f["name"] for f in manifest["files"]}
    assert damaged_files(with_onnx.files.manifest) == []


def test_both_files_are_valid_onnx(with_onnx) -> None:
    for ending in ENDINGS:
        onnx.checker.check_model(onnx.load(with_onnx.file(ending)), full_check=True)


def test_graphs_hold_no_path_of_the_machine_they_were_written_on(with_onnx) -> None:
    for ending in ENDINGS:
        content = with_onnx.file(ending).read_bytes()
        for folder in (Path.cwd(), Path(torch.__file__).parent, Path.home()):
            assert str(folder).encode() not in content, folder


@torch.no_grad()
@pytest.mark.parametrize(("scheme", "backend"), [("aggressive", "fbgemm"), ("default", "x86")])
def test_one_scale_for_all_weights_and_seven_bit_activations(scheme: str, backend: str, tmp_path) -> None:
    """What the two other kinds of file need: fewer levels than a byte has, and per-tensor weights."""
    torch.manual_seed(0)
    layer = QConv2d(nn.Conv2d(6, 8, (1, 3), padding=(0, 1)), QuantConfig(scheme=scheme, backend=backend))
    x = torch.randn(4, 6, 1, 33)
    calibrate(layer, [lambda: layer(0.8 * x)])  # some values lie outside the range
    set_phase(layer, "frozen")
    integers = integer_layer("layer", layer.eval())
    module, file = nn.Sequential(OrderedDict(layer=lower(integers, DIALECT))), tmp_path / "layer.onnx"
    write_graph(module.eval(), {"x": x[:2]}, ["y"], torch.export.Dim("batch"), file, {})
    assert integer_layers_run(file) == {"layer": "QLinearConv"}
    assert_same_integers(stored_layers(file)["layer"], integers)
    (ours,) = session(file, threads=1).run(None, {"x": x.numpy()})
    levels = (x / integers.input.scale).round() + integers.input.zero_point
    found = np.round(ours / integers.output.scale) + integers.output.zero_point
    assert_within_one_step(found, integers, levels.clamp(0, integers.levels))
    assert found.max() == integers.levels


@pytest.mark.slow
def test_the_forks_unet_which_does_not_see_the_time_step(tmp_path) -> None:
    generator = calibrated(tiny_model("fork"), tiny_recipe("fork"))
    layers = integer_layers(generator)
    files = write_onnx(generator, tmp_path / "fork.onnx", True, "{}", "0" * 64, layers)
    require_integers(files, layers)
    loaded = load(files[0], threads=1)
    velocity, seismic = loaded.sample(2, 0, 1, gathers="decoder")
    assert (velocity.shape, seismic.shape) == ((2, 1, 70, 70), (2, 5, 30, 7))
    x = np.random.default_rng(0).standard_normal((3, 1, loaded.latent_length)).astype(np.float32)
    time = generator.sampler.times[:1].expand(3)
    with torch.no_grad():
        wanted = generator.unet(torch.from_numpy(x), time).numpy()
    assert np.linalg.norm(loaded.unet(x, time.numpy()) - wanted) <= 0.05 * np.linalg.norm(wanted)


def test_weights_may_be_rewritten_as_uint8_on_any_processor(with_onnx, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor without VNNI; the same pairs, and still in integers."""
    here = load(with_onnx.file(".onnx"), threads=1).sample(2, seed=3, gathers="decoder")
    monkeypatch.setattr("ubq.runtime.onnx.adds_in_32_bits", lambda: False)
    assert session_options().get_session_config_entry(PRECISE) == "1"
    there = load(with_onnx.file(".onnx"), threads=1).sample(2, seed=3, gathers="decoder")
    for own, other in zip(here, there, strict=True):
        assert np.linalg.norm(own - other) <= 1e-3 * np.linalg.norm(other)
    require_integers([with_onnx.file(ending) for ending in ENDINGS], with_onnx.layers)
