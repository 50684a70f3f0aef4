"""Every shipped preset resolves, validates and builds; nothing generated is stale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from ubq.config import presets
from ubq.config.load import load_config, read_frozen, write_frozen
from ubq.config.reference import page
from ubq.config.rendering import commented, schema_text
from ubq.config.schema import Family

REPOSITORY = Path(__file__).parents[2]
SIZES = {"": (512, (1, 2, 4, 8)), "-base": (512, (1, 2, 2, 2)), "-edge": (128, (1, 2, 2, 4))}


def test_all_data_sets_come_in_all_sizes() -> None:
    expected = {f"{family}{size}" for family in get_args(Family) for size in SIZES}
    assert set(presets.names()) == expected | {"demo", "smoke"}


@pytest.mark.parametrize("name", presets.names())
def test_preset_resolves_and_reads_back(name: str) -> None:
    loaded = load_config(name, isolated=True)
    config = loaded.config
    assert loaded.preset == config.run.name == config.export.name == name
    assert config.quant.scheme == "aggressive"
    assert config.quant.backend == "qnnpack"
    assert len(config.model.dim_mults) == 4
    own = [k for k, source in loaded.provenance.items() if source == f"preset {name}" and k == "description"]
    assert own, "each preset describes itself"
    Path("frozen.toml").write_text(write_frozen(config), encoding="utf-8")
    assert read_frozen(Path("frozen.toml")) == config


@pytest.mark.parametrize("family", get_args(Family))
@pytest.mark.parametrize("size", SIZES)
def test_sizes_and_recipe(family: str, size: str) -> None:
    config = load_config(f"{family}{size}", isolated=True).config
    assert config.data.family == family
    assert (config.model.encoder_dim, config.model.dim_mults) == SIZES[size]
    assert (config.model.variant, config.model.diffusion_steps) == ("paper", 256)
    for part in (config.qat.decoders, config.qat.diffusion):
        assert (part.batch_size, part.epochs, part.steps, part.lr) == (16, 50, 0, 5e-5)
    assert config.train.diffusion.lr == 8e-5
    for training in (config.train.autoencoder, config.train.seismic, config.train.diffusion):
        assert training.ema_decay == 0.995
    assert (config.train.autoencoder.l1_weight, config.train.autoencoder.l2_weight) == (1.0, 1.0)


def test_presets_build_on_the_meta_device() -> None:
    torch = pytest.importorskip("torch")
    from ubq.model import ModelSizes, UBDiff

    built: dict[ModelSizes, int] = {}
    for name in presets.names():
        sizes = ModelSizes.from_dict(load_config(name, isolated=True).config.model.model_dump())
        if sizes not in built:
            with torch.device("meta"):
                model = UBDiff(sizes)
            built[sizes] = sum(isinstance(m, torch.nn.Conv1d) for m in model.unet.modules())
        assert built[sizes] == 75, name
    assert len(built) == 5


def test_the_repository_runs_the_demo() -> None:
    loaded = load_config(project_file=REPOSITORY / "ubq.toml", isolated=True)
    assert loaded.config == load_config("demo", isolated=True).config


def test_schema_file_is_current_and_named_in_every_preset() -> None:
    assert (presets.folder() / "schema.json").read_text("utf-8") == schema_text(), "run: make docs"
    for file in presets.folder().glob("*.toml"):
        assert file.read_text("utf-8").startswith("#:schema ./schema.json\n"), file.name


def test_schema_accepts_every_preset_file() -> None:
    import tomllib

    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json.loads(schema_text()))
    for file in [*presets.folder().glob("*.toml"), REPOSITORY / "ubq.toml"]:
        assert not list(validator.iter_errors(tomllib.loads(file.read_text("utf-8")))), file.name


def test_reference_page_is_current() -> None:
    assert (REPOSITORY / "docs/configuration.md").read_text("utf-8") == page(), "run: make docs"


def test_commented_file_means_its_preset_and_every_line_can_be_uncommented() -> None:
    config = load_config("demo", isolated=True).config
    text = commented(config, "demo", Path("ubq.toml"))
    Path("ubq.toml").write_text(text)
    assert load_config(environ={}).config == config
    opened = [line[2:] if line.startswith("# ") and " = " in line else line for line in text.splitlines()]
    Path("ubq.toml").write_text("\n".join(line for line in opened if not line.startswith("#")))
    assert load_config(environ={}).config.model == config.model
