"""The ExecuTorch file: the integers of the TorchScript file, every weight layer in XNNPACK."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from runtime_parity import assert_same_integers, assert_same_unet_step, assert_within_one_step, input_levels
from torch import nn

from ubq.errors import StageError, UsageError
from ubq.export.readback.executorch import delegated_layers, stored_layers
from ubq.runtime import load

pytestmark = pytest.mark.slow


def test_every_layer_is_the_integer_model_and_runs_in_xnnpack(with_executorch) -> None:
    file = with_executorch.file(".pte")
    assert len(delegated_layers(file)) == len(with_executorch.layers)
    stored = stored_layers(file, with_executorch.layers.values())
    assert stored.keys() == with_executorch.layers.keys()
    for name, layer in with_executorch.layers.items():
        assert_same_integers(stored[name], layer)


def test_nothing_with_a_weight_is_left_to_other_kernels(with_executorch) -> None:
    from executorch.exir._serialize._program import deserialize_pte_binary

    program = deserialize_pte_binary(with_executorch.file(".pte").read_bytes()).program
    names = {operator.name for plan in program.execution_plan for operator in plan.operators}
    assert names
    assert not {n for n in names if any(word in n for word in ("conv", "linear", "mm", "quantize"))}
    assert {d.id for plan in program.execution_plan for d in plan.delegates} == {"XnnpackBackend"}


def test_a_layer_that_is_not_in_the_file_makes_the_export_fail(with_executorch) -> None:
    from dataclasses import replace

    first, *others = with_executorch.layers.values()
    changed = replace(first, weight=first.weight.roll(1))
    with pytest.raises(StageError, match=f"would run in float: {first.name}"):
        stored_layers(with_executorch.file(".pte"), [changed, *others])


def test_every_layer_is_within_one_step_of_the_reference(with_executorch) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    from ubq.export.lower.executorch import DIALECT
    from ubq.export.lower.qdq import lower

    chosen: dict[tuple, str] = {}  # one layer of each kind and geometry: each is compiled on its own
    for name, layer in with_executorch.layers.items():
        if layer.input is not None:
            chosen[(layer.kind, tuple(layer.weight.shape[2:]), layer.stride, layer.padding, layer.groups)] = name
    assert len(chosen) >= 6
    elements = differing = 0
    for name in chosen.values():
        layer = with_executorch.layers[name]
        levels = input_levels(layer)
        values = (levels.float() - layer.input.zero_point) * layer.input.scale
        module: nn.Module = lower(layer, DIALECT).eval()
        exported = torch.export.export(module, (values,), strict=False)
        program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
        method = Runtime.get().load_program(program.buffer).load_method("forward")
        ours = method.execute([values])[0] / layer.output.scale + layer.output.zero_point
        differing += assert_within_one_step(ours.round().numpy(), layer, levels)
        elements += ours.numel()
    assert differing < 0.002 * elements, "rounding differs in more than a few places"


def test_one_unet_step_is_the_torchscript_files(with_executorch) -> None:
    assert_same_unet_step(load(with_executorch.file(".pte"), threads=1), with_executorch.files.model)


def test_the_file_samples_like_the_others(with_executorch) -> None:
    loaded, torchscript = load(with_executorch.file(".pte"), 1), load(with_executorch.files.model, 1)
    assert loaded.facts == torchscript.facts
    assert loaded.steps == torchscript.steps
    velocity, seismic = loaded.sample(2, 0, 7)
    assert (velocity.shape, seismic.shape) == ((2, 1, 70, 70), (2, 5, 1000, 70))
    again = loaded.sample(2, 0, 7)
    np.testing.assert_array_equal(velocity, again[0])
    np.testing.assert_array_equal(seismic, again[1])
    latent = np.random.default_rng(0).uniform(-1, 1, (4, 1, loaded.latent_length)).astype(np.float32)
    for ours, theirs in zip(loaded.decode(latent), torchscript.decode(latent), strict=True):
        assert np.linalg.norm(ours - theirs) < 0.03 * np.linalg.norm(theirs)


def test_the_file_holds_no_path_of_the_machine_it_was_written_on(with_executorch) -> None:
    content = with_executorch.file(".pte").read_bytes()
    for folder in (Path.cwd(), Path(torch.__file__).parent, Path.home()):
        assert str(folder).encode() not in content, folder


def test_a_broken_file_is_one_clear_line(with_executorch, tmp_path) -> None:
    file = tmp_path / "broken.pte"
    file.write_bytes(with_executorch.file(".pte").read_bytes()[:1000])
    with pytest.raises(UsageError, match=r"broken\.pte is not a model that ubq exported"):
        load(file)
