"""Tables of ``studies/quality.py`` and ``studies/ptq_qat.py``: the figures, their bars, and who wins."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import ptq_qat
import pytest
import quality
import torch
from tiny_generator import SIZES, tiny_backend, tiny_generator, tiny_recipe

from ubq.data.synthetic import synthesise_velocity
from ubq.export.lower.torchscript import engine, load_torchscript, write_torchscript
from ubq.model import GaussianDiffusion
from ubq.quant.generator import Generator
from ubq.quant.phases import set_phase

FIGURES = [quality.SSIM, *quality.BARS]


@pytest.fixture(autouse=True)
def modelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward modelling in no time: what matters here is what becomes of it."""

    def solver(velocity: np.ndarray) -> np.ndarray:
        return np.broadcast_to(velocity.mean((1, 2, 3), keepdims=True), (len(velocity), 5, 1000, 70))

    monkeypatch.setattr(quality, "WaveEquation", lambda **acquisition: solver)


@pytest.fixture(scope="module")
def generator() -> Generator:
    """In float."""
    made = tiny_generator(tiny_recipe())
    set_phase(made, "float")
    return made.eval()


@pytest.fixture(scope="module")
def data(generator: Generator) -> quality.HeldOut:
    rng = torch.Generator().manual_seed(0)
    real = torch.as_tensor(synthesise_velocity("curvefault-a", 12, 0))
    latents = torch.rand(12, 1, SIZES.encoder_dim, generator=rng) * 2 - 1
    with torch.no_grad():
        maps, gathers = generator.decode(latents[:4])
    return quality.HeldOut(
        maps=maps + 3 * torch.randn(maps.shape, generator=rng),
        gathers=gathers * (1 + 0.05 * torch.randn(gathers.shape, generator=rng)),
        real=real,
        train=real.flip(0),
        latents=latents,
        scale=tiny_recipe().normalization,
        diffusion=GaussianDiffusion(SIZES.diffusion_steps, SIZES.objective, SIZES.variant),
    )


@torch.no_grad()
def rows_of(models: dict[str, quality.Model], data: quality.HeldOut) -> dict[str, list[str]]:
    """Cells of a report by the name of the figure."""
    lines = [x for x in quality.report(models, data, 6, 3).splitlines() if x.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in cells}) == 1, "a table"
    return {row[0]: row[1:] for row in cells[2:]}


def test_a_model_against_itself_holds_every_bar(generator: Generator, data: quality.HeldOut) -> None:
    rows = rows_of({"float": generator, "exported": generator}, data)
    assert {name for name, row in rows.items() if row[-1]} == set(FIGURES), "those of the issue's table, and no other"
    assert all(rows[name][-1] == "yes" for name in FIGURES)
    assert all(rows[name][2] == "1.0000 (1.0000 to 1.0000)" for name in quality.BARS)
    assert all(row[0] == row[1] for row in rows.values())


def test_a_harmed_model_misses_its_bars(generator: Generator, data: quality.HeldOut) -> None:
    harmed = copy.deepcopy(generator)
    with torch.no_grad():
        for parameter in harmed.parameters():
            parameter.mul_(1.2)
    rows = rows_of({"float": generator, "exported": harmed}, data)
    missed = {name for name in FIGURES if rows[name][-1] == "NO"}
    assert missed >= {quality.LOSS, *quality.SEISMIC}
    for name in (*quality.SEISMIC, quality.LOSS):
        before, after, ratio = rows[name][:3]
        assert float(ratio.split()[0]) == pytest.approx(float(after) / float(before), rel=0.01)


def test_the_upper_end_is_what_must_hold(
    generator: Generator, data: quality.HeldOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.no_grad():
        figures = quality.figures_of(generator, data, 6, 0)
    interval = quality.Interval(1.02, 1.0, 1.04)
    monkeypatch.setattr(quality, "bootstrap_ratio", lambda *_: interval)
    text, bar, holds = quality.verdict(quality.LOSS, figures, figures, data.real)
    assert text.startswith("1.0200")
    assert (bar, holds) == ("<= 1.03", "NO")


@pytest.mark.parametrize(("change", "holds"), [(0.1, "yes"), (-0.004, "yes"), (-0.006, "NO")])
def test_the_ssim_may_drop_a_little(change: float, holds: str) -> None:
    before, after = (quality.Figures({quality.SSIM: 0.9 + x}, {}, torch.empty(0)) for x in (0.0, change))
    assert quality.verdict(quality.SSIM, after, before, torch.empty(0))[1:] == (">= -0.005", holds)


def test_float_fake_quantised_and_exported_stand_side_by_side(
    generator: Generator, data: quality.HeldOut, tmp_path: Path
) -> None:
    fake = copy.deepcopy(generator)
    set_phase(fake, "frozen")
    file = tmp_path / "tiny.pt"
    write_torchscript(fake.eval(), file, tiny_backend())
    with engine(tiny_backend()):
        models = {"float": generator, "QAT": fake, "exported": load_torchscript(file, tiny_backend())}
        rows = rows_of(models, data)
    plain, simulated, exported = (float(x) for x in rows[quality.LOSS][:3])
    assert exported == pytest.approx(simulated, rel=0.02), "the simulation is what the file computes"
    assert exported != plain


def contenders(**qat: float) -> str:
    """Table of three seeds in which QAT scores what is given."""
    base = dict.fromkeys(FIGURES, 1.0)
    spread = (0.99, 1.0, 1.01)
    found = {
        kind: [{name: value * s for name, value in base.items()} for s in spread] for kind in ("float+", "PTQ", "QAT")
    }
    for run in found["QAT"]:
        run |= qat
    return ptq_qat.table(base, found)


def test_qat_counts_as_worse_beyond_the_spread_alone() -> None:
    assert "NO" not in contenders()
    assert "NO" not in contenders(**{quality.LOSS: 1.019})
    assert "NO, NO" in next(x for x in contenders(**{quality.LOSS: 1.03}).splitlines() if quality.LOSS in x)
    assert "NO, NO" in next(x for x in contenders(**{quality.SSIM: 0.97}).splitlines() if quality.SSIM in x)
