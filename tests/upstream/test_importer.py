"""Import of every container that upstream writes, built here from small models."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
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

from ubq.cli.checkpoint import app
from ubq.errors import CheckpointError
from ubq.model import ModelSizes, UBDiff
from ubq.model.parts import DECODERS
from ubq.upstream.importer import ImportedModel, inspect_checkpoint, read_checkpoint
from ubq.upstream.names import upstream_names


@pytest.fixture(params=["paper", "fork"])
def sizes(request: pytest.FixtureRequest) -> ModelSizes:
    return sizes_for(request.param)


def assert_same_model(imported: ImportedModel, model: UBDiff) -> None:
    """Same outputs to the bit, and the same tensors."""
    ours = imported.model()
    velocity, time = torch.rand(2, 1, 70, 70), torch.tensor([1, 7])
    with torch.no_grad():
        latent = model.encode(velocity)
        assert torch.equal(ours.encode(velocity), latent)
        for a, b in zip(ours(latent), model(latent), strict=True):
            assert torch.equal(a, b)
        assert torch.equal(ours.unet(latent.unsqueeze(1), time), model.unet(latent.unsqueeze(1), time))
    for name, tensor in model.state_dict().items():
        assert torch.equal(imported.state[name], tensor), name


def test_fork_diffusion_container(tmp_path: Path) -> None:
    sizes = sizes_for("fork")
    raw, averaged = random_model(sizes, 0), random_model(sizes, 1)
    path = tmp_path / "model-4.pt"
    torch.save(fork_diffusion(sizes, raw, averaged), path)
    found = read_checkpoint(path)
    assert (found.container, found.variant, found.weights_used, found.step) == ("fork diffusion", "fork", "ema", 4000)
    assert found.sizes == sizes
    assert found.suggested_normalization == "fork"
    raw_and_ema = UBDiff(sizes).eval()
    raw_and_ema.load_state_dict(raw.state_dict() | {f"unet.{n}": t for n, t in averaged.unet.state_dict().items()})
    assert_same_model(found, raw_and_ema)
    as_trained = read_checkpoint(path, "raw")
    assert as_trained.weights_used == "raw"
    assert_same_model(as_trained, raw)


def test_paper_diffusion_container(tmp_path: Path) -> None:
    sizes = sizes_for("paper")
    raw, averaged = random_model(sizes, 0), random_model(sizes, 1)
    path = tmp_path / "model-5.pt"
    torch.save(paper_diffusion(sizes, raw, averaged), path)
    found = read_checkpoint(path)
    assert (found.container, found.variant, found.weights_used, found.step) == ("paper diffusion", "paper", "ema", 5000)
    assert found.sizes == sizes
    assert found.suggested_normalization == "openfwi"
    assert_same_model(found, averaged)
    assert_same_model(read_checkpoint(path, "raw"), raw)


def test_averages_that_were_never_updated_are_not_used(tmp_path: Path) -> None:
    sizes = sizes_for("paper")
    raw = random_model(sizes, 0)
    content = paper_diffusion(sizes, raw, random_model(sizes, 1))
    content["ema"]["initted"] = torch.tensor(False)
    torch.save(content, tmp_path / "model-0.pt")
    found = read_checkpoint(tmp_path / "model-0.pt")
    assert found.weights_used == "raw"
    assert "never updated" in found.notes[0]
    assert_same_model(found, raw)


def test_averages_and_raw_weights_are_not_mixed(tmp_path: Path) -> None:
    sizes = sizes_for("fork")
    content = fork_diffusion(sizes, random_model(sizes, 0), random_model(sizes, 1))
    del content["ema"]["ema_model"]["final_conv.bias"]
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"averaged weights lack unet\.final_conv\.bias"):
        read_checkpoint(tmp_path / "model.pt")


@pytest.mark.parametrize("layout", ["bare", "state_dict", "legacy", "half", "parallel"])
def test_bare_state_dicts(sizes: ModelSizes, tmp_path: Path, layout: str) -> None:
    model = random_model(sizes)
    state: Any = upstream_state(sizes, model)
    if layout == "half":
        model.load_state_dict(
            {n: t.half().float() if t.is_floating_point() else t for n, t in model.state_dict().items()}
        )
        state = {
            n: t.half() if t.is_floating_point() and not n.startswith("diffusion.") else t for n, t in state.items()
        }
        state = {n: t for n, t in state.items() if not n.startswith("diffusion.model")}
    if layout == "parallel":
        state = {f"module.{n}": t for n, t in state.items()}
    if layout == "state_dict":
        state = {"state_dict": state}
    torch.save(state, tmp_path / "bare.pth", _use_new_zipfile_serialization=layout != "legacy")
    found = read_checkpoint(tmp_path / "bare.pth")
    assert found.container == f"bare {sizes.variant}"
    assert found.sizes == sizes
    assert all(t.dtype in (torch.float32, torch.int64) for t in found.state.values())
    assert_same_model(found, model)


def test_encoder_decoder_container_is_partial(sizes: ModelSizes, tmp_path: Path) -> None:
    model = random_model(sizes)
    path = tmp_path / "checkpoint_epoch_12.pth"
    torch.save(encoder_decoder(sizes, model), path)
    with pytest.raises(CheckpointError, match="lacks the U-Net"):
        read_checkpoint(path)
    found = read_checkpoint(path, need=DECODERS)
    assert found.container == f"{sizes.variant} encoder-decoder"
    assert found.parts == ("encoder", *DECODERS)
    assert not any(name.startswith("unet") for name in found.state)
    assert found.to_dict()["absent"] == ["unet"]
    assert found.sizes.velocity_dims == sizes.velocity_dims


def test_decoders_from_a_second_checkpoint(sizes: ModelSizes, tmp_path: Path) -> None:
    first, second = random_model(sizes, 0), random_model(sizes, 1)
    torch.save({"model": upstream_state(sizes, first)}, tmp_path / "diffusion.pt")
    torch.save(encoder_decoder(sizes, second), tmp_path / "decoders.pth")
    found = read_checkpoint(tmp_path / "diffusion.pt", decoder_path=tmp_path / "decoders.pth")
    expected = UBDiff(sizes).eval()
    taken = {n: t for n, t in second.state_dict().items() if n.split(".")[0] in DECODERS}
    expected.load_state_dict(first.state_dict() | taken)
    assert_same_model(found, expected)


def test_a_unet_alone_takes_everything_else_from_the_second(sizes: ModelSizes, tmp_path: Path) -> None:
    model = random_model(sizes)
    torch.save({"model": upstream_state(sizes, model, UNET)}, tmp_path / "unet.pt")
    torch.save(encoder_decoder(sizes, model), tmp_path / "decoders.pth")
    with pytest.raises(CheckpointError, match="lacks the encoder"):
        read_checkpoint(tmp_path / "unet.pt")
    found = read_checkpoint(tmp_path / "unet.pt", decoder_path=tmp_path / "decoders.pth")
    assert found.sizes == sizes
    assert_same_model(found, model)


def test_decoders_of_another_variant_or_latent_are_refused(tmp_path: Path) -> None:
    paper, fork, wide = sizes_for("paper"), sizes_for("fork"), sizes_for("paper", encoder_dim=24, unet_dim=24)
    for name, sizes in (("paper", paper), ("fork", fork), ("wide", wide)):
        torch.save(upstream_state(sizes, random_model(sizes)), tmp_path / f"{name}.pt")
    with pytest.raises(CheckpointError, match=r"paper variant.*fork variant"):
        read_checkpoint(tmp_path / "paper.pt", decoder_path=tmp_path / "fork.pt")
    with pytest.raises(CheckpointError, match="latents of 16"):
        read_checkpoint(tmp_path / "paper.pt", decoder_path=tmp_path / "wide.pt")


def test_every_missing_tensor_is_named(sizes: ModelSizes, tmp_path: Path) -> None:
    state = upstream_state(sizes, random_model(sizes))
    names = upstream_names(sizes.variant, len(sizes.dim_mults), sizes.seismic_depth)
    for ours, all_names in list(names.items())[::23]:
        if ours.startswith("diffusion."):
            continue
        holed = {n: t for n, t in state.items() if n not in all_names}
        with pytest.raises(CheckpointError, match=all_names[0].replace(".", r"\.")):
            read_checkpoint(saved(tmp_path / "holed.pt", holed))


def test_left_over_tensors_are_named(sizes: ModelSizes, tmp_path: Path) -> None:
    state = upstream_state(sizes, random_model(sizes))
    path = saved(tmp_path / "more.pt", state | {"unet.downs.0.9.weight": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r"does not have: unet\.downs\.0\.9\.weight"):
        read_checkpoint(path)
    assert inspect_checkpoint(path).left_over == ("unet.downs.0.9.weight",)


def test_duplicates_must_be_equal(sizes: ModelSizes, tmp_path: Path) -> None:
    state = upstream_state(sizes, random_model(sizes))
    name = "diffusion.model.mid_block1.block1.proj.weight"
    with pytest.raises(CheckpointError, match=r"diffusion\.model\.mid_block1.*duplicates"):
        read_checkpoint(saved(tmp_path / "two.pt", state | {name: state[name] + 1e-6}))
    read_checkpoint(saved(tmp_path / "copy.pt", state | {name: state[name].clone()}))


def test_misshapen_tensors_are_named(sizes: ModelSizes, tmp_path: Path) -> None:
    state = upstream_state(sizes, random_model(sizes))
    twins = ("unet.mid_block1.block1.proj.bias", "diffusion.model.mid_block1.block1.proj.bias")
    with pytest.raises(CheckpointError, match=r"unet\.mid_block1\.block1\.proj\.bias has shape 3"):
        read_checkpoint(saved(tmp_path / "bad.pt", state | dict.fromkeys(twins, torch.zeros(3))))


def test_another_noise_schedule_is_refused(sizes: ModelSizes, tmp_path: Path) -> None:
    state = upstream_state(sizes, random_model(sizes))
    linear = torch.linspace(1e-4, 0.02, sizes.diffusion_steps)
    with pytest.raises(CheckpointError, match=r"diffusion\.betas is not that of the cosine schedule of 8 steps"):
        read_checkpoint(saved(tmp_path / "linear.pt", state | {"diffusion.betas": linear}))


@pytest.mark.parametrize("objective", ["v", "noise", "x0"])
def test_the_objective_is_read_off_the_loss_weights(objective: str, tmp_path: Path) -> None:
    sizes = sizes_for("paper", objective=objective)
    assert read_checkpoint(saved(tmp_path / "m.pt", upstream_state(sizes, random_model(sizes)))).sizes == sizes


def test_the_gathers_shape_can_be_given(tmp_path: Path) -> None:
    sizes = sizes_for("paper", seismic_samples=30, receivers=7)
    path = saved(tmp_path / "m.pt", upstream_state(sizes, random_model(sizes)))
    assert read_checkpoint(path, sizes={"receivers": 7}).sizes == sizes
    odd = sizes_for("paper", seismic_samples=11, receivers=13, sources=3)
    path = saved(tmp_path / "odd.pt", upstream_state(odd, random_model(odd)))
    with pytest.raises(CheckpointError, match="a gather of 429 values has no known shape"):
        read_checkpoint(path)
    assert read_checkpoint(path, sizes={"receivers": 13, "sources": 3}).sizes == odd


def test_variants_are_not_mixed(tmp_path: Path) -> None:
    paper, fork = sizes_for("paper"), sizes_for("fork")
    mixed = upstream_state(paper, random_model(paper), UNET) | upstream_state(fork, random_model(fork), DECODERS)
    with pytest.raises(CheckpointError, match="mixes"):
        read_checkpoint(saved(tmp_path / "mixed.pt", mixed))


class Payload:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


def one_line(error: pytest.ExceptionInfo[CheckpointError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


def test_code_in_a_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for zipped in (True, False):
        torch.save({"model": {}, "extra": Payload()}, "evil.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError) as error:
            read_checkpoint(Path("evil.pt"))
        assert "refuses to run" in one_line(error)
    Path("plain.pt").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(Path("plain.pt"))
    one_line(error)
    assert not Path("executed").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_files(tmp_path: Path, zipped: bool) -> None:
    sizes = sizes_for("fork")
    torch.save(upstream_state(sizes, random_model(sizes)), tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "m.pt").read_bytes()
    for share in (0.0, 0.001, 0.3, 0.9, 0.999):
        (tmp_path / "cut.pt").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(CheckpointError) as error:
            read_checkpoint(tmp_path / "cut.pt")
        one_line(error)


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda b: b"\x80\x02" + b)))
def test_arbitrary_bytes_give_one_line(content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.pt"
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as error:
            read_checkpoint(path)
        one_line(error)


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("a.txt", "hello")
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    torch.save({"model": {"weight": 3}}, tmp_path / "number.pt")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pt")
    for name, message in {
        "absent.pt": "cannot be read",
        ".": "cannot be read",
        "data.zip": "not a PyTorch checkpoint",
        "script.pt": "TorchScript",
        "list.pt": "holds a value of type list",
        "empty.pt": "holds no model; its entries: epoch",
        "number.pt": "weight is a value of type int, not a tensor",
        "linear.pt": "holds no tensor of UB-Diff",
    }.items():
        with pytest.raises(CheckpointError, match=message) as error:
            read_checkpoint(tmp_path / name)
        one_line(error)


def test_inspect_command(tmp_path: Path) -> None:
    sizes = sizes_for("fork")
    model = random_model(sizes)
    path = tmp_path / "model-4.pt"
    torch.save(fork_diffusion(sizes, model, model), path)
    shown = CliRunner().invoke(app, ["inspect", str(path), "--json"])
    assert shown.exit_code == 0
    document = json.loads(shown.stdout)
    assert document["container"] == "fork diffusion"
    assert document["variant"] == "fork"
    assert ModelSizes.from_dict(document["sizes"]) == sizes
    assert document["parameters"]["unet"] == sum(p.numel() for p in model.unet.parameters())
    assert document["parameters"]["total"] == sum(p.numel() for p in model.parameters())
    assert document["missing"] == document["left_over"] == document["absent"] == []
    assert document["normalization"] == "fork"
    people = CliRunner().invoke(app, ["inspect", str(path)])
    assert people.exit_code == 0
    assert "ranges of fork" in people.stdout


def test_inspect_lists_what_is_missing(tmp_path: Path) -> None:
    sizes = sizes_for("paper")
    state = upstream_state(sizes, random_model(sizes))
    gone = {"unet.final_conv.bias", "diffusion.model.final_conv.bias", "fc_s.bias"}
    path = saved(tmp_path / "m.pt", {n: t for n, t in state.items() if n not in gone} | {"decoder_v.x": torch.ones(1)})
    shown = CliRunner().invoke(app, ["inspect", str(path), "--json"])
    assert shown.exit_code == 2
    document = json.loads(shown.stdout)
    assert set(document["missing"]) == {"unet.final_conv.bias", "fc_s.bias"}
    assert document["left_over"] == ["decoder_v.x"]


def test_the_command_module_imports_no_torch() -> None:
    code = "import ubq.cli.checkpoint, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


RSS = """
import sys
from pathlib import Path
from ubq.jobs.machine import peak_memory
from ubq.upstream.importer import inspect_checkpoint
base = peak_memory()
found = inspect_checkpoint(Path(sys.argv[1]))
assert not found.problem, found.problem
print((peak_memory() - base) // 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process counts its parent's memory at the fork")
def test_inspection_does_not_read_the_weights(tmp_path: Path) -> None:
    """The fork's full-size model, 4 GB: what is mapped and not touched costs no memory."""
    sizes = ModelSizes(variant="fork")
    with torch.device("meta"):
        model = UBDiff(sizes)
    names = upstream_names("fork", len(sizes.dim_mults), sizes.seismic_depth)
    state: dict[str, Tensor] = {}
    for ours, tensor in model.state_dict().items():
        state |= dict.fromkeys(names[ours], torch.empty(tensor.shape, dtype=tensor.dtype))
    # leaves holes for the values, so that the file is large and takes no space
    with torch.serialization.skip_data():
        path = saved(tmp_path / "model-4.pt", state)
    assert path.stat().st_size > 4e9
    run = subprocess.run([sys.executable, "-c", RSS, str(path)], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 100
