"""Exported files that are good, broken or cheating, each judged as a whole."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ubq.acquisition import acquisition_for
from ubq.data.normalization import Normalization
from ubq.data.pairs import Pairs, open_files
from ubq.model.wave import WaveEquation
from ubq.verify import probe
from ubq.verify.child import Exported
from ubq.verify.evidence import read_evidence
from ubq.verify.measure import Int8Counts, verify_export
from ubq.verify.picture import WAVE, draw_pairs, rows_of
from ubq.verify.report import MARK_IDS, Report

LATENT = 8
STEPS = 4
SEISMIC = (1, 700, 70)
CUMPROD = np.linspace(0.999, 0.01, 16).tolist()


class FakeUNet(nn.Module):
    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.gain * torch.sin(x + time[0])


class FakeSampler(nn.Module):
    """Times of two step counts, one below the other; the first is the file's default."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = [STEPS, 2]
        self.register_buffer("times", torch.tensor([15, 10, 5, 0, 15, 0]))

    def forward(self, steps: int) -> int:
        return 0 if steps == 4 else 4


class Layers(nn.Module):
    """A generator in TorchScript: three layers whose depths and speeds are the latent's elements.

    Data latents have standard deviation 0.3, noise 1; the sampler shrinks one into the other.
    """

    def __init__(
        self,
        sampler: str = "shrink",
        gain: float = 1.0,
        offset: float = 0.0,
        unet_gain: float = 1.0,
        strength: float = 1.0,
        dots: float = 0.0,
    ) -> None:
        super().__init__()
        acquisition = acquisition_for((1, 70, 70), SEISMIC)
        assert acquisition
        self.wave, self.strength = WaveEquation(**asdict(acquisition)), strength
        self.kind, self.gain, self.offset = sampler, gain, offset
        self.unet, self.sampler = FakeUNet(unet_gain), FakeSampler()
        grid = dots * (torch.arange(70) % 2 == 0)
        self.register_buffer("dots", grid * grid[:, None] / max(dots, 1.0))
        self.register_buffer("depth", torch.arange(70.0).reshape(1, 1, 70, 1))
        self.register_buffer("time", torch.linspace(0, 40, 700).reshape(1, 1, 700, 1))

    @torch.jit.export
    def sample(self, x_T: Tensor, step_noise: Tensor, steps: int) -> Tensor:
        if self.kind == "noise":
            return torch.randn_like(x_T)
        if self.kind == "collapsed":
            return 0.3 + 0.01 * x_T
        if self.kind == "constant":
            return torch.full_like(x_T, 0.1)
        return 0.3 * x_T

    @torch.jit.export
    def decode(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        z = latent.reshape(-1, 1, 8, 1)
        first = torch.sigmoid(self.depth - 20 - 12 * z[:, :, 0:1])
        second = torch.sigmoid(self.depth - 45 - 12 * z[:, :, 1:2])
        speed = 2000 + 400 * z[:, :, 2:3] + first * (1000 + 400 * z[:, :, 3:4]) + second * (800 + 200 * z[:, :, 4:5])
        velocity = (self.gain * speed + self.offset).expand(-1, 1, 70, 70).contiguous() + self.dots
        seismic = self.gain * 5 * torch.sin(self.time * (1 + 0.2 * z[:, :, 5:6])).expand(-1, 1, 700, 70).contiguous()
        return velocity, seismic

    @torch.jit.export
    def gathers(self, velocity: Tensor) -> Tensor:
        return self.strength * self.wave(velocity)

    @torch.jit.export
    def simulate(self, batch_size: int = 1, steps: int = 0) -> tuple[Tensor, Tensor]:
        velocity = self.forward(batch_size, steps)[0]
        return velocity, self.gathers(velocity)

    def forward(self, batch_size: int = 1, steps: int = 0) -> tuple[Tensor, Tensor]:
        x_T = torch.randn(batch_size, 1, 8)
        noise = torch.randn(3, batch_size, 1, 8)
        return self.decode(self.sample(x_T, noise, 4))


UNMEASURED = {"generation", "int8_fidelity", "diversity", "beats_noise", "lattice", "variogram"}


def scripted(path: Path, model: nn.Module) -> Path:
    torch.jit.script(model.eval()).save(str(path))
    return path


def maps(path: Path, count: int, seed: int) -> Pairs:
    latent = 0.3 * torch.randn(count, 1, LATENT, generator=torch.Generator().manual_seed(seed))
    np.save(path, Layers().decode(latent)[0].numpy())
    files = open_files(path, "", need_seismic=False)
    return Pairs(tuple(files), np.stack([np.zeros(count, np.int64), np.arange(count)], 1))


GOOD_ROWS = [
    *({"stage": "train-diffusion", "step": i, "loss": 1 / (i + 1), "phase": "train"} for i in range(20)),
    {"stage": "train-diffusion", "step": 5, "val_loss": 0.5, "phase": "train"},
    {"stage": "train-diffusion", "step": 19, "val_loss": 0.1, "phase": "train"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verify")
    scripted(path / "float.pt", Layers())
    scripted(path / "good.pt", Layers(gain=1.004, unet_gain=1.02))
    return path


@pytest.fixture(scope="module")
def judge(folder: Path):
    held_out, train = maps(folder / "held_out.npy", 60, 1), maps(folder / "train.npy", 80, 2)

    def run(file: Path, rows=GOOD_ROWS, distilled: bool = False, **changes) -> Report:
        exported = Exported(
            file=file,
            reference=folder / "float.pt",
            engine="x86" if "x86" in torch.backends.quantized.supported_engines else "qnnpack",
            steps=STEPS,
            latent=LATENT,
            alphas_cumprod=CUMPROD,
            normalization=Normalization(-26, 50, 1500, 4500),
            seismic_shape=SEISMIC,
            distilled=distilled,
        )
        settings = {"run": "trial", "counts": Int8Counts(90, 100, 0, 75), "stages": ["train-diffusion"], "threads": 1}
        return verify_export(exported, held_out=held_out, train=train, rows=rows, **(settings | changes))

    return run


def failed(report: Report) -> set[str]:
    return {m.id for m in report.marks if not m.passed}


def test_a_distilled_file_is_judged_by_where_its_steps_end(judge, folder: Path) -> None:
    report = judge(folder / "good.pt", distilled=True, count=8, maps=8)
    mark = next(m for m in report.marks if m.id == "int8_fidelity")
    figures = report.details["int8_against_float"]
    assert mark.value["unet_step"] == figures["whole_chain_latent_relative_l2"]
    assert mark.value["unet_step"] != pytest.approx(figures["unet_step_relative_l2"], rel=0.1)
    assert "after all steps" in mark.how


def test_a_good_file_passes_every_mark_and_the_report_says_how(judge, folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = judge(
        folder / "good.pt",
        picture=folder / "samples.png",
        evidence=folder / "report.npz",
        latents=torch.zeros(60, LATENT),
        progress=lambda *x: seen.append(x),
    )
    assert report.passed, [(m.id, m.how) for m in report.marks if not m.passed]
    assert {m.id for m in report.marks} == set(MARK_IDS)
    report.write(folder / "report.json")
    assert Report.read(folder / "report.json").to_json() == report.to_json()
    fidelity = next(m for m in report.marks if m.id == "int8_fidelity").value
    assert fidelity["unet_step"] == pytest.approx(0.02, rel=1e-3)
    wasserstein = report.details["sliced_wasserstein"]
    assert wasserstein["real_floor"]["mean"] < wasserstein["noise_ceiling"]["mean"]
    assert wasserstein["held_out_maps"] == 60
    assert 0.8 < wasserstein["int8_over_float"]["value"] < 1.2
    physics = next(m for m in report.marks if m.id == "physics")
    assert physics.value < 1e-3
    assert "decoder's gathers" in physics.how
    assert len(report.details["physics"]["decoder_gathers"]) == 16
    assert min(report.details["physics"]["decoder_gathers"]) > 0.5, "sines are no waves"
    assert report.details["diversity"]["nearest_train"] > 0
    assert (folder / "samples.png").read_bytes()[:4] == b"\x89PNG"
    kept = read_evidence(folder / "report.npz")
    assert set(kept["pair_name"]) == {"generated", "held out"}
    assert kept["gather"].dtype == np.int8
    assert next(w for w, t in zip(kept["gather_error"], kept["gather_title"], strict=True) if t == WAVE) < 1e-3
    assert kept["velocity_generated"].sum() == pytest.approx(1, abs=1e-3)
    apart = np.linalg.norm((kept["copy_generated"] - kept["copy_nearest"]).astype(float).reshape(6, -1), axis=1)
    assert apart == pytest.approx(kept["copy_distance"], rel=0.02)
    assert kept["copy_distance"].min() == pytest.approx(report.details["diversity"]["nearest_train"])
    assert (folder / "report.npz").stat().st_size < 1_000_000
    known = [(done, total) for done, total in seen if total]  # 0 while it is unknown
    assert len({total for _, total in known}) == 1
    assert known == sorted(known)
    assert known[-1][0] == known[-1][1], "all of its work is counted"
    assert known[0][0] < known[-1][1] / 2


SLOW = pytest.mark.slow  # each mark that these fail is failed by one of the others, too


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (Layers(sampler="noise"), {"beats_noise"}),
        (Layers(sampler="collapsed"), {"diversity"}),
        pytest.param(Layers(sampler="constant"), {"generation", "diversity"}, marks=SLOW),
        pytest.param(Layers(gain=1.2), {"int8_fidelity"}, marks=SLOW),
        (Layers(dots=20.0), {"lattice"}),
        (Layers(gain=0.6, offset=1000.0), {"variogram"}),
        (Layers(unet_gain=1.2), {"int8_fidelity"}),
        pytest.param(Layers(offset=3000.0), {"generation", "int8_fidelity", "physics"}, marks=SLOW),
        (Layers(gain=float("nan")), UNMEASURED),
        (Layers(strength=1.1), {"physics"}),
    ],
    ids=[
        "noise instead of a sampler",
        "mode collapse",
        "no randomness",
        "decoder off",
        "lattice",
        "little variety",
        "U-Net off",
        "range",
        "nan",
        "another wave equation",
    ],
)
def test_a_bad_file_fails_the_marks_it_should(judge, tmp_path: Path, model: nn.Module, wanted: set[str]) -> None:
    report = judge(scripted(tmp_path / "bad.pt", model), count=24, picture=tmp_path / "samples.png")
    assert wanted <= failed(report)
    assert (tmp_path / "samples.png").exists() == (wanted is not UNMEASURED), "strange pairs are seen, too"
    assert not report.passed
    assert not failed(report) & {"quantised_modules", "conv1d_left", "file_size", "loss_falling"}


def test_a_file_that_does_not_load_fails_with_its_reason(judge, tmp_path: Path) -> None:
    (tmp_path / "junk.pt").write_bytes(b"not TorchScript")
    report = judge(tmp_path / "junk.pt")
    assert failed(report) == UNMEASURED | {"physics"}
    assert all("RuntimeError" in m.how for m in report.marks if not m.passed)
    report.write(tmp_path / "report.json")
    assert not Report.read(tmp_path / "report.json").passed


def test_a_float_file_under_a_quantised_name_fails(judge, folder: Path) -> None:
    report = judge(folder / "good.pt", counts=Int8Counts(0, 100, 75, 75), count=16)
    assert failed(report) == {"quantised_modules", "conv1d_left"}


@pytest.mark.parametrize("decoded", [None, np.ones((2, 3, 50, 30), np.float32)], ids=["maps alone", "decoder alone"])
def test_gathers_that_cannot_be_modelled_are_left_out_of_the_picture(tmp_path: Path, decoded) -> None:
    rows = rows_of("generated", np.full((2, 1, 70, 70), 2000, np.float32), None, decoded)
    draw_pairs(tmp_path / "samples.png", rows, Normalization(-26, 50, 1500, 4500))
    assert (tmp_path / "samples.png").read_bytes()[:4] == b"\x89PNG"


def test_progress_can_end_the_measurement(judge, folder: Path) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        judge(folder / "good.pt", progress=stop)


def test_the_probe_refuses_ubq(tmp_path: Path) -> None:
    """Isolated Python still sees site-packages, where ubq may be installed: the probe itself must keep it out."""
    code = (
        f"import sys, runpy; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        f"names = runpy.run_path({probe.__file__!r})\n"
        "sys.meta_path.insert(0, names['_NoUbq']())\n"
        "import ubq"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode != 0
    assert "may not need ubq" in done.stderr
