"""Counting on the model, the reports, and ``ubq quant analyze``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import calibrated, tiny_model, tiny_recipe, tiny_sizes
from typer.testing import CliRunner

from ubq.cli.quant import app
from ubq.config.schema import ExportConfig, QuantConfig
from ubq.data.normalization import Normalization
from ubq.errors import UsageError
from ubq.export.lower.torchscript import write_torchscript
from ubq.model import ModelSizes
from ubq.quant.analysis import (
    GOALS,
    REWRITES,
    as_json,
    as_text,
    by_upstream_rule,
    count_model,
    rewrite_totals,
    write_analysis,
)
from ubq.quant.checkpoint import save_qat, skeleton
from ubq.quant.generator import Recipe
from ubq.quant.prepare import prepare_qat
from ubq.quant.sensitivity import Sensitivity

RANGES = Normalization(-25.0, 50.0, 1500.0, 4500.0)


@pytest.mark.parametrize(("variant", "mults"), [("paper", (1, 2, 2, 2)), ("fork", (1, 2, 4, 8))])
def test_full_size_meets_the_goals_without_holding_a_weight(variant: str, mults: tuple[int, ...]) -> None:
    sizes = ModelSizes(variant=variant, dim_mults=mults)  # type: ignore[arg-type]
    recipe = Recipe(sizes, RANGES, QuantConfig(), ExportConfig())
    generator = skeleton(recipe)
    assert all(p.is_meta for p in generator.parameters())
    count = count_model(generator, recipe.quant)
    assert count.conv1d.quantised == count.conv1d.total == 75
    for name, goal in GOALS.items():
        assert getattr(count, name).fraction >= goal
    assert count.leaf_modules.fraction > 0.3
    head = next(x for x in count.layers if x.name == "seismic_decoder.output")
    assert head.macs == 640 * 5 * 1000 * 70


@pytest.mark.parametrize("keep_float", [(), ("unet.init_conv.conv",)])
def test_each_rewrite_shows_what_it_is_worth(keep_float: tuple[str, ...]) -> None:
    totals = rewrite_totals(tiny_recipe("paper", QuantConfig(keep_float=keep_float)))
    assert list(totals) == ["none", *REWRITES]
    assert totals["none"].conv1d.quantised == 0
    assert totals["convert_conv1d"].conv1d.quantised == 75
    assert totals["fold_batchnorm"].leaf_modules.total < totals["none"].leaf_modules.total
    assert totals["convert_transposed"].macs.fraction > totals["convert_conv1d"].macs.fraction
    assert totals["ten_bit_io"].weight_layers.total == totals["convert_transposed"].weight_layers.total
    assert totals["time_tables"].parameters.total < totals["ten_bit_io"].parameters.total
    assert totals["time_tables"].weight_layers.fraction == 1


def test_time_tables_spare_65_million_parameters_of_blocks_and_5_of_the_embedding() -> None:
    recipe = Recipe(ModelSizes(dim_mults=(1, 2, 2, 2)), RANGES, QuantConfig(), ExportConfig())
    totals = rewrite_totals(recipe)
    spared = totals["ten_bit_io"].parameters.total - totals["time_tables"].parameters.total
    assert 65e6 + 5e6 < spared < 65.1e6 + 5.3e6


def test_upstreams_rule_gives_about_upstreams_numbers() -> None:
    ours = by_upstream_rule(ModelSizes(variant="fork"))
    assert ours["conv1d"] == "75"
    assert ours["after"].startswith("101 of ")


def test_layers_kept_in_float_say_why() -> None:
    quant = QuantConfig(keep_float=("unet.mid_*", "seismic_decoder.output"))
    count = count_model(skeleton(tiny_recipe("paper", quant)), quant)
    kept = {x.name: x.reason for x in count.layers if x.weighted and not x.quantised}
    assert "seismic_decoder.output" in kept
    assert sum(name.startswith("unet.mid_") for name in kept) == 6
    assert set(kept.values()) == {"quant.keep_float"}
    assert count.parameters.fraction < 0.9


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    quant = QuantConfig(keep_float=("unet.middle",))
    with pytest.raises(UsageError, match=r"unet\.middle"):
        prepare_qat(skeleton(tiny_recipe("paper")), quant)


def test_reports_on_disk(tmp_path: Path) -> None:
    recipe = tiny_recipe("paper")
    costs = [Sensitivity(f"unet.x{i}", "diffusion", 40.0 - i, 0.01 * (4 - i)) for i in range(4)]
    document = as_json(count_model(skeleton(recipe), recipe.quant), None, recipe, costs)
    assert document["worst_layers"] == ["unet.x0", "unet.x1", "unet.x2"]
    text, data = write_analysis(tmp_path, document)
    assert json.loads(data.read_text()) == document
    shown = text.read_text()
    assert shown == as_text(document)
    for words in ("24 of 257", "75", "convert_conv1d", "unet.mid_block1.conv1", "int8", "unet.x0, unet.x1, unet.x2"):
        assert words in shown


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A QAT checkpoint and an exported file, laid out as a run called ``r``."""
    root = tmp_path_factory.mktemp("runs") / "r"
    recipe = tiny_recipe("fork")
    generator = calibrated(tiny_model("fork"), recipe)
    checkpoint = root / "checkpoints" / "qat_diffusion" / "final_qat_model.pt"
    exported = root / "exported_models" / "tiny.pt"
    save_qat(checkpoint, generator, recipe)
    write_torchscript(generator, exported, "x86")
    return checkpoint, exported


@pytest.mark.parametrize("what", ["checkpoint", "exported", "run"])
def test_analyze_prints_one_json_object(files: tuple[Path, Path], what: str) -> None:
    checkpoint, exported = files
    target = {"checkpoint": str(checkpoint), "exported": str(exported), "run": "r"}[what]
    runs = str(checkpoint.parents[3])
    shown = CliRunner().invoke(app, ["analyze", target, "--json", "--runs-dir", runs])
    assert shown.exit_code == 0, shown.output
    document = json.loads(shown.stdout)
    totals = {"weight_layers", "parameters", "macs", "leaf_modules", "conv1d"}
    assert set(document["exported"]) == totals
    assert document["exported"]["conv1d"] == {"quantised": 75, "total": 75}
    assert document["activation_macs"] > 0
    assert document["float_constants"] == [], "nothing this small has 4 KB of floats"
    assert len(document["layers"]) == document["exported"]["leaf_modules"]["total"]
    if what == "exported":
        assert document["model"] is None
    else:
        assert document["model"] == document["exported"]
        assert document["differences"] == []


def test_analyze_names_what_is_not_there(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["analyze", "nothing", "--runs-dir", str(tmp_path)])
    assert isinstance(shown.exception, UsageError)
    (tmp_path / "empty").mkdir()
    shown = CliRunner().invoke(app, ["analyze", "empty", "--runs-dir", str(tmp_path)])
    assert "no quantised model yet" in str(shown.exception)


def test_counting_leaves_the_generator_alone() -> None:
    recipe = tiny_recipe("paper")
    generator = calibrated(tiny_model("paper"), recipe)
    latent = torch.rand(1, 1, tiny_sizes("paper").encoder_dim)
    before = generator.decode(latent)
    count_model(generator, recipe.quant)
    assert torch.equal(generator.decode(latent)[1], before[1])
