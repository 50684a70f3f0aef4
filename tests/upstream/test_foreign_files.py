"""Checkpoints as people have them: with classes of other packages, wrapped, in half precision, damaged, of QAT."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import functools
import pathlib
import pickle
import random
import re
import shlex
import subprocess
import sys
import types
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner
from upstream_files import (
    UNET,
    encoder_decoder,
    fork_diffusion,
    paper_diffusion,
    random_model,
    saved,
    sizes_for,
    upstream_state,
)

from ubq.cli import main
from ubq.cli.checkpoint import app
from ubq.errors import CheckpointError
from ubq.model import UBDiff
from ubq.model.parts import DECODERS, PARTS
from ubq.upstream.importer import NotFiniteError, inspect_checkpoint, read_checkpoint


def assert_holds(path: Path, model: UBDiff, parts: tuple[str, ...] = PARTS, **options: Any) -> None:
    found = read_checkpoint(path, need=parts, **options)
    for name, tensor in model.state_dict().items():
        if name.split(".")[0] in parts:
            assert torch.equal(found.state[name], tensor), name


def foreign(module: str, name: str, base: type = object) -> type:
    """A class of a package that is not installed where the file is read."""
    kind = type(name, (base,), {"__module__": module})
    parts = module.split(".")
    for i in range(len(parts)):
        sys.modules.setdefault(".".join(parts[: i + 1]), types.ModuleType(parts[i]))
    setattr(sys.modules[module], name, kind)
    return kind


@pytest.fixture
def packages() -> Any:
    before = set(sys.modules)
    yield foreign
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("omegaconf", "easydict", "mycode"):
            del sys.modules[name]


def test_classes_that_do_nothing_open(tmp_path: Path, packages: Any) -> None:
    """The paper's encoder-decoder file holds its parsed arguments; others hold paths, scores, settings."""
    model = random_model(sizes_for("paper"))
    settings = packages("omegaconf.dictconfig", "DictConfig")()
    settings.__dict__["_content"] = {"lr": packages("omegaconf.nodes", "AnyNode")()}
    easy = packages("easydict", "EasyDict", dict)(lr=1e-4)
    easy.lr = 1e-4
    lists = collections.defaultdict(list, loss=[1.0])
    args = argparse.Namespace(
        lr=1e-4, out=pathlib.Path("runs"), device=torch.device("cpu"), dtype=torch.float16, best=np.float32(0.5)
    )
    harmless = {
        "args": args,
        "config": settings,
        "easy": easy,
        "history": lists,
        "recent": collections.deque([1, 2], maxlen=5),
        "where": pathlib.PureWindowsPath("C:/data"),
        "when": datetime.datetime(2025, 1, 2),
        "id": uuid.UUID(int=3),
        "scores": np.arange(3.0),
        "facts": types.SimpleNamespace(n=1),
        "step": np.int64(12),
    }
    content = {"model": upstream_state(model.sizes, model), **harmless}
    for zipped in (True, False):
        torch.save(content, tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
        assert_holds(tmp_path / "m.pth", model)
        assert read_checkpoint(tmp_path / "m.pth").step == 12


class Trainer:
    """Of code that only its owner has."""

    def __init__(self, model: UBDiff) -> None:
        self.best = model


def test_other_classes_are_refused_and_the_advice_works_on_the_file_alone(
    tmp_path: Path, packages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = random_model(sizes_for("fork"))
    kind = packages("mycode.train", "Settings")
    trained = kind()
    trained.rate = 1e-4
    content = {"model": upstream_state(model.sizes, model), "settings": trained, "step": 7}
    for zipped, name in ((True, "my model.pt"), (False, "legacy.pt")):
        module = sys.modules["mycode.train"]
        torch.save(content, name, _use_new_zipfile_serialization=zipped)
        del sys.modules["mycode.train"]
        with pytest.raises(CheckpointError, match=r"mycode\.train\.Settings") as error:
            read_checkpoint(Path(name))
        command = error.value.fix[error.value.fix.index("ubq ") :]
        assert main(shlex.split(command)[1:]) == 0
        bare = Path(shlex.split(command)[-1])
        assert_holds(bare, model)
        assert read_checkpoint(bare).step == 7
        assert main(shlex.split(command)[1:]) == 2, "nothing is written over"
        sys.modules["mycode.train"] = module


def test_the_weights_of_a_pickled_module_are_taken_out_without_its_code(tmp_path: Path, packages: Any) -> None:
    kind = packages("mycode.model", "Net", torch.nn.Sequential)
    net = kind(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    torch.save(net, tmp_path / "net.pt")
    del sys.modules["mycode.model"]
    with pytest.raises(CheckpointError, match="refuses to run"):
        read_checkpoint(tmp_path / "net.pt")
    assert main(["checkpoint", "weights", str(tmp_path / "net.pt"), "--output", str(tmp_path / "bare.pt")]) == 0
    state = torch.load(tmp_path / "bare.pt")["model"]
    assert state.keys() == net.state_dict().keys()
    assert all(torch.equal(state[n], t) for n, t in net.state_dict().items())


class Listed(list[int]):
    pass


@dataclasses.dataclass(slots=True)
class Slotted:
    rate: float = 1e-4


@pytest.mark.parametrize(
    "beside",
    [
        [random.Random(0), {"rate": functools.partial(max, 1)}],
        [Slotted(), re.compile("x"), Listed([1])],
        [Listed([1, 2]), torch.nn.Linear(2, 2), random.Random(0), collections.OrderedDict(a=Slotted())],
    ],
)
def test_the_weights_are_taken_out_whatever_state_the_objects_beside_them_have(tmp_path: Path, beside: Any) -> None:
    model = random_model(sizes_for("paper"))
    torch.save({"beside": beside, "model": upstream_state(model.sizes, model), "after": beside}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="refuses to run"):
        read_checkpoint(tmp_path / "m.pt")
    assert main(["checkpoint", "weights", str(tmp_path / "m.pt"), "--output", str(tmp_path / "bare.pt")]) == 0
    assert_holds(tmp_path / "bare.pt", model)


def test_generators_of_numpy_do_nothing(tmp_path: Path) -> None:
    model = random_model(sizes_for("paper"))
    generators = [np.random.default_rng(0), np.random.RandomState(0), np.random.get_state()]
    torch.save({"model": upstream_state(model.sizes, model), "rng": generators}, tmp_path / "m.pt")
    assert_holds(tmp_path / "m.pt", model)


class Payload:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


class Deletes:
    def __reduce__(self) -> Any:
        import os

        return (os.system, ("touch executed",))


@pytest.mark.parametrize("payload", [Payload(), Deletes()])
def test_taking_the_weights_out_runs_nothing(
    payload: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"a": torch.ones(2)}, "x": payload}, "evil.pt")
    code = main(["checkpoint", "weights", "evil.pt", "--output", "bare.pt"])
    assert not Path("executed").exists()
    assert code in (0, 2)
    assert "Traceback" not in capsys.readouterr().err
    if code == 0:
        assert read_file_keys(Path("bare.pt")) == {"model"}


def read_file_keys(path: Path) -> set[str]:
    return set(torch.load(path, weights_only=True))


@pytest.mark.parametrize("variant", ["paper", "fork"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda n: f"module.{n}",
        lambda n: f"_orig_mod.module.{n}",
        lambda n: f"module._orig_mod.{n}",
        lambda n: f"model.{n}",
        lambda n: f"model._orig_mod.{n}",
        lambda n: f"net.module.model.{n}",
        lambda n: n.replace("unet.", "unet._orig_mod.").replace("diffusion.model.", "diffusion.model.module."),
        lambda n: ".".join(part for p in n.split(".") for part in (p, "_orig_mod")[: 1 + (p == "encoder")]),
        lambda n: f"module.{n}" if n.startswith("unet") else n,
    ],
)
def test_wrappers_come_off_wherever_they_stand(wrap: Any, variant: str, tmp_path: Path) -> None:
    model = random_model(sizes_for(variant))
    state = {wrap(n): t for n, t in upstream_state(model.sizes, model).items()}
    assert_holds(saved(tmp_path / "m.pt", state), model)


def test_a_lightning_file_with_averages_beside_the_weights(tmp_path: Path) -> None:
    raw, averaged = (random_model(sizes_for("paper"), seed) for seed in (0, 1))
    state = {f"model.{n}": t for n, t in upstream_state(raw.sizes, raw).items()}
    state |= {f"ema_model.{n}": t for n, t in upstream_state(averaged.sizes, averaged).items()}
    content = {"epoch": 3, "global_step": 99, "pytorch-lightning_version": "2.2", "state_dict": state, "loops": {}}
    torch.save(content, tmp_path / "last.ckpt")
    found = read_checkpoint(tmp_path / "last.ckpt")
    assert (found.weights_used, found.step) == ("ema", 99)
    assert_holds(tmp_path / "last.ckpt", averaged)
    assert_holds(tmp_path / "last.ckpt", raw, weights="raw")


def test_wrapped_averages(tmp_path: Path) -> None:
    raw, averaged = (random_model(sizes_for("paper"), seed) for seed in (0, 1))
    content = paper_diffusion(raw.sizes, raw, averaged)
    content["ema"] = {n.replace("ema_model.", "ema_model.module._orig_mod."): t for n, t in content["ema"].items()}
    torch.save(content, tmp_path / "m.pt")
    assert_holds(tmp_path / "m.pt", averaged)


@pytest.mark.parametrize("variant", ["paper", "fork"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("back", [False, True])
def test_a_file_is_judged_with_the_precision_it_has(
    variant: str, dtype: torch.dtype, back: bool, tmp_path: Path
) -> None:
    """A state dict that was cast as a whole, schedule included; and one that was then cast back."""
    model = random_model(sizes_for(variant, diffusion_steps=256))
    state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in upstream_state(model.sizes, model).items()}
    if back:
        state = {n: t.float() if t.is_floating_point() else t for n, t in state.items()}
    found = read_checkpoint(saved(tmp_path / "half.pt", state))
    assert found.sizes == model.sizes
    assert all(t.dtype in (torch.float32, torch.int64) for t in found.state.values())


def test_another_schedule_is_seen_in_half_precision_too(tmp_path: Path) -> None:
    model = random_model(sizes_for("fork", diffusion_steps=256))
    state = upstream_state(model.sizes, model) | {"diffusion.betas": torch.linspace(1e-4, 0.02, 256)}
    state = {n: t.bfloat16() if t.is_floating_point() else t for n, t in state.items()}
    with pytest.raises(CheckpointError, match="cosine schedule"):
        read_checkpoint(saved(tmp_path / "half.pt", state))


def poisoned(state: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    changed = {n: t.clone() for n, t in state.items()}
    for name in names:
        changed[name].view(-1)[-1] = float("nan") if name.endswith("weight") else float("inf")
    return changed


def test_weights_that_are_not_finite_are_found_by_name(tmp_path: Path) -> None:
    raw, averaged = (random_model(sizes_for("fork"), seed) for seed in (0, 1))
    sound = fork_diffusion(raw.sizes, raw, averaged)
    name = "mid_block1.block1.proj.weight"
    bad = {**sound, "ema": {**sound["ema"], "ema_model": poisoned(sound["ema"]["ema_model"], name)}}
    torch.save(bad, tmp_path / "average.pt")
    with pytest.raises(NotFiniteError, match=r"averaged weights are not finite: unet\.mid_block1") as error:
        read_checkpoint(tmp_path / "average.pt")
    assert "pretrained.weights=raw" in error.value.fix
    assert_holds(tmp_path / "average.pt", raw, weights="raw")

    twins = (f"unet.{name}", f"diffusion.model.{name}")
    both = {**bad, "model": poisoned(sound["model"], *twins)}
    torch.save(both, tmp_path / "both.pt")
    with pytest.raises(NotFiniteError) as error:
        read_checkpoint(tmp_path / "both.pt")
    assert error.value.sound == ""
    assert "earlier checkpoint" in error.value.fix

    torch.save({**sound, "model": poisoned(sound["model"], *twins)}, tmp_path / "raw.pt")
    with pytest.raises(NotFiniteError, match=r"pretrained\.weights=ema"):
        read_checkpoint(tmp_path / "raw.pt", "raw")
    assert read_checkpoint(tmp_path / "raw.pt").weights_used == "ema"

    decoder = "dual_decoder.seismic_decoder.mlp.bias"
    with pytest.raises(NotFiniteError, match="weights are not finite"):
        read_checkpoint(saved(tmp_path / "decoder.pt", poisoned(sound["model"], decoder)))


def fake_quantised(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the buffers that PyTorch's preparation for QAT adds."""
    buffers: dict[str, Tensor] = {"velocity_quant.activation_post_process.scale": torch.ones(1)}
    for name in state:
        if name.endswith(".weight"):
            layer = name.removesuffix("weight")
            buffers[f"{layer}weight_fake_quant.scale"] = torch.ones(1)
            buffers[f"{layer}weight_fake_quant.fake_quant_enabled"] = torch.ones(1, dtype=torch.uint8)
            buffers[f"{layer}activation_post_process.zero_point"] = torch.zeros(1, dtype=torch.int32)
            buffers[f"{layer}activation_post_process.activation_post_process.min_val"] = torch.zeros(())
    return {**state, **buffers}


def fork_qat_decoders(model: UBDiff) -> dict[str, Any]:
    state = upstream_state(model.sizes, model, DECODERS)
    bare = {n.removeprefix("dual_decoder."): t for n, t in state.items()}
    return {"model_state_dict": fake_quantised(bare), "args": {"backend": "qnnpack", "lr": 5e-5}}


def test_the_forks_qat_decoders_are_used_as_decoders(tmp_path: Path) -> None:
    first, second = (random_model(sizes_for("fork"), seed) for seed in (0, 1))
    torch.save(fork_qat_decoders(second), tmp_path / "final_qat_decoders.pt")
    torch.save(fork_diffusion(first.sizes, first, first), tmp_path / "model-4.pt")
    found = inspect_checkpoint(tmp_path / "final_qat_decoders.pt")
    assert found.container == "fork QAT"
    assert not found.problem
    assert any("quantisation-aware" in note for note in found.notes)
    both = read_checkpoint(tmp_path / "model-4.pt", decoder_path=tmp_path / "final_qat_decoders.pt")
    expected = first.state_dict() | {n: t for n, t in second.state_dict().items() if n.split(".")[0] in DECODERS}
    assert all(torch.equal(both.state[n], t) for n, t in expected.items())
    with pytest.raises(CheckpointError, match="lacks the U-Net"):
        read_checkpoint(tmp_path / "final_qat_decoders.pt")


def test_the_forks_qat_model_with_its_convolutions_rewritten(tmp_path: Path) -> None:
    """``final_qat_model.pt``: a generator without an encoder, Conv1d wrapped as Conv2d."""
    model = random_model(sizes_for("fork"))
    state: dict[str, Tensor] = {}
    for name, tensor in upstream_state(model.sizes, model).items():
        if name.startswith("dual_decoder."):
            state[name.replace("dual_decoder.", "decoder.")] = tensor
        elif name.startswith(("unet.", "diffusion.model.")) and tensor.dim() == 3 and name.endswith("weight"):
            if not name.endswith("norm.weight"):
                state[name.removesuffix("weight") + "conv2d.weight"] = tensor.unsqueeze(2)
        elif not name.startswith("encoder."):
            state[name] = tensor
    torch.save({"model_state_dict": fake_quantised(state), "args": {}}, tmp_path / "final_qat_model.pt")
    parts = (*DECODERS, "unet")
    assert_holds(tmp_path / "final_qat_model.pt", model, parts)
    with pytest.raises(CheckpointError, match="lacks the encoder") as error:
        read_checkpoint(tmp_path / "final_qat_model.pt")
    assert "--decoder-checkpoint" in error.value.fix


def test_fused_batch_norms_are_found_in_their_convolutions(tmp_path: Path) -> None:
    model = random_model(sizes_for("fork"))
    content = fork_qat_decoders(model)
    state = content["model_state_dict"]
    fused = {n.replace(".layers.1.", ".layers.0.bn."): t for n, t in state.items()}
    torch.save({"model_state_dict": fused}, tmp_path / "fused.pt")
    assert_holds(tmp_path / "fused.pt", model, DECODERS)
    folded = {n: t for n, t in state.items() if ".layers.1." not in n}
    torch.save({"model_state_dict": folded}, tmp_path / "folded.pt")
    with pytest.raises(CheckpointError, match="float checkpoint that it was made from"):
        read_checkpoint(tmp_path / "folded.pt", need=DECODERS)


def test_a_converted_int8_model_says_what_it_is(tmp_path: Path) -> None:
    weight = torch.quantize_per_tensor(torch.randn(4, 4), 0.1, 0, torch.qint8)
    for state in (
        {"velocity_projector.fc._packed_params._packed_params": (weight, None)},
        {"velocity_decoder.output_layer.layers.0.weight": weight},
    ):
        torch.save({"model_state_dict": state}, tmp_path / "int8.pt")
        with pytest.raises(CheckpointError, match="before the conversion"):
            read_checkpoint(tmp_path / "int8.pt")


def test_integers_are_no_weights(tmp_path: Path) -> None:
    model = random_model(sizes_for("fork"))
    state = upstream_state(model.sizes, model)
    name = "dual_decoder.seismic_decoder.mlp.bias"
    with pytest.raises(CheckpointError, match=r"mlp\.bias holds int8 numbers"):
        read_checkpoint(saved(tmp_path / "m.pt", state | {name: state[name].to(torch.int8)}))


@pytest.mark.parametrize("variant", ["paper", "fork"])
def test_safetensors_files(variant: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = random_model(sizes_for(variant))
    state = {n: t.clone() for n, t in upstream_state(model.sizes, model).items() if not n.startswith("diffusion.model")}
    path = tmp_path / "model.safetensors"
    save_file({f"model.{n}": t for n, t in state.items()}, path)
    assert_holds(path, model)
    whole = path.read_bytes()
    for cut in (9, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match="not a safetensors file"):
            read_checkpoint(path)


def test_files_of_other_kinds_are_called_what_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    np.savez(tmp_path / "a.npz", np.zeros(3))
    (tmp_path / "empty.pt").touch()
    (tmp_path / "page.pt").write_text("<!DOCTYPE html><title>404</title>")
    (tmp_path / "pointer.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    torch.save({"model": {}}, tmp_path / "four.pt", pickle_protocol=4)
    for name, message in {
        "a.npy": "NumPy array",
        "a.npz": "archive of NumPy arrays",
        "empty.pt": "empty file",
        "page.pt": "web page",
        "pointer.pt": "Git LFS pointer",
        "four.pt": "another pickle protocol",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(tmp_path / name)


def test_a_few_bytes_that_pose_as_terabytes(tmp_path: Path) -> None:
    model = random_model(sizes_for("fork"))
    state = upstream_state(model.sizes, model)
    name = "dual_decoder.seismic_projector.fc.weight"
    vast = torch.zeros(1).expand(10**6, 10**6)
    with pytest.raises(CheckpointError, match="not a plain tensor"):
        read_checkpoint(saved(tmp_path / "m.pt", {**state, name: vast}))
    with pytest.raises(CheckpointError, match="not a plain tensor"):
        read_checkpoint(saved(tmp_path / "m.pt", {**state, name: torch.ones(3, 3).to_sparse()}))
    with pytest.raises(CheckpointError, match="not a plain tensor"):
        read_checkpoint(saved(tmp_path / "m.pt", {**state, name: torch.ones(10**6, 10**6, device="meta")}))


def test_names_from_a_file_reach_the_terminal_without_control_characters(tmp_path: Path) -> None:
    model = random_model(sizes_for("fork"))
    state = upstream_state(model.sizes, model) | {"\x1b[2J\x1b[Hx": torch.ones(1), "y" * 10_000: torch.ones(1)}
    shown = CliRunner().invoke(app, ["inspect", str(saved(tmp_path / "m.pt", state))])
    assert shown.exit_code == 2
    assert "\x1b" not in shown.output
    assert max(map(len, shown.output.splitlines())) < 1000
    torch.save({"\x1b]0;x\x07": 1}, tmp_path / "e.pt")
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(tmp_path / "e.pt")
    assert str(error.value).isprintable()


def test_a_step_that_is_no_number_is_no_step(tmp_path: Path) -> None:
    model = random_model(sizes_for("fork"))
    state = upstream_state(model.sizes, model)
    for step in (float("nan"), float("inf"), 2**2000, -1, "7", torch.ones(2), 1j, None):
        torch.save({"model": state, "step": step}, tmp_path / "m.pt")
        assert read_checkpoint(tmp_path / "m.pt").step is None


def test_the_encoder_decoder_file_of_a_wrapped_model(tmp_path: Path) -> None:
    model = random_model(sizes_for("paper"))
    content = encoder_decoder(model.sizes, model)
    content["model"] = {f"module.{n}": t for n, t in content["model"].items()}
    torch.save({**content, "args": argparse.Namespace(lr=1)}, tmp_path / "e.pth")
    torch.save({"model": upstream_state(model.sizes, model, UNET)}, tmp_path / "u.pt")
    assert_holds(tmp_path / "u.pt", model, decoder_path=tmp_path / "e.pth")


def test_pickles_of_python_are_no_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "p.pt").write_bytes(pickle.dumps({"model": 1}, protocol=2))
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "p.pt")


def stored(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("wrapped", [True, False], ids=["wrapped", "bare"])
def test_arrays_of_numpy_are_called_so_and_the_command_makes_tensors_of_them(tmp_path: Path, wrapped: bool) -> None:
    model = random_model(sizes_for("paper"))
    arrays = {n: t.numpy() for n, t in upstream_state(sizes_for("paper"), model).items()}
    path = stored(tmp_path / "two words.pt", {"model": arrays} if wrapped else arrays)
    with pytest.raises(CheckpointError, match="NumPy array") as caught:
        read_checkpoint(path)
    assert "_Nothing" not in caught.value.message
    words = shlex.split(caught.value.fix.partition(": ")[2])
    subprocess.run([sys.executable, *words[1:]], check=True)
    assert_holds(tmp_path / "two words-tensors.pt", model)


def test_an_entry_that_is_no_tensor_is_left_out_by_the_command_advised(tmp_path: Path) -> None:
    model = random_model(sizes_for("paper"))
    state = {**upstream_state(sizes_for("paper"), model), "_extra_state": None}
    path = stored(tmp_path / "m.pt", {"model": state})
    with pytest.raises(CheckpointError, match="_extra_state is None, not a tensor") as caught:
        read_checkpoint(path)
    assert main(shlex.split(caught.value.fix.partition(": ")[2])[1:]) == 0
    assert_holds(tmp_path / "m-weights.pt", model)


def test_a_schedule_that_is_no_number_is_not_called_another_schedule(tmp_path: Path) -> None:
    state = upstream_state(sizes_for("paper"), random_model(sizes_for("paper")))
    state["diffusion.betas"] = torch.full_like(state["diffusion.betas"], float("nan"))
    with pytest.raises(NotFiniteError, match=r"not finite: diffusion\.betas"):
        read_checkpoint(stored(tmp_path / "m.pt", {"model": state}))


@pytest.mark.parametrize("entry", ["params", "params_ema", "generator"])
def test_other_names_of_weights(tmp_path: Path, entry: str) -> None:
    model = random_model(sizes_for("paper"))
    state = upstream_state(sizes_for("paper"), model)
    assert_holds(stored(tmp_path / "m.pt", {entry: state, "epoch": 1}), model)
    bare = stored(tmp_path / "bare.pt", {**state, "params": {"lr": 1e-4}})  # which are no weights
    assert_holds(bare, model)
    with pytest.raises(CheckpointError, match="holds no model") as caught:
        read_checkpoint(stored(tmp_path / "none.pt", {entry if entry != "params_ema" else "x": {"lr": 1e-4}}))
    assert "state_dict" in caught.value.fix
