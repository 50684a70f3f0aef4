"""Which layer wins, how layers merge, and that provenance tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from ubq.config import keys
from ubq.config.load import ConfigError, Given, load_config, parse_assignments, read_frozen, write_frozen
from ubq.config.rendering import values_of
from ubq.errors import UsageError


def user_config(text: str) -> None:
    folder = Path("xdg/ubq")
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(text)


def test_provenance_explains_every_value_of_a_run_built_from_all_layers() -> None:
    user_config('threads = 3\nseed = 1\ntracking = "none"\n[run]\ndir = "elsewhere"\n')
    Path("ubq.toml").write_text('extends = "smoke"\nseed = 2\n\n[qat]\nepochs = 9\nlr = 2e-4\n')
    loaded = load_config(
        overrides={"qat.lr": "3e-4", "device": Given("cpu", "--device")},
        environ={"UBQ_SEED": "7", "UBQ_QAT__DIFFUSION__BATCH_SIZE": "2", "UBQ_LANG": "en"},
    )
    config, said = loaded.config, loaded.provenance

    assert set(said) == {key.name for key in keys.leaves().values()}
    assert all(said.values())
    expected = {
        "model.seismic_samples": (1000, "default"),
        "model.encoder_dim": (16, "preset smoke"),
        "threads": (3, "xdg/ubq/config.toml:1"),
        "run.dir": ("elsewhere", "xdg/ubq/config.toml:5"),
        "qat.epochs": (9, "ubq.toml:5"),
        "seed": (7, "UBQ_SEED"),
        "qat.diffusion.batch_size": (2, "UBQ_QAT__DIFFUSION__BATCH_SIZE"),
        "qat.decoders.batch_size": (8, "preset smoke (qat.batch_size)"),
        "qat.lr": (3e-4, "--set qat.lr"),
        "qat.decoders.lr": (3e-4, "--set qat.lr (qat.lr)"),
        "device": ("cpu", "--device"),
    }
    values = values_of(config)
    for name, (value, source) in expected.items():
        assert values[tuple(name.split("."))] == value, name
        assert said[name].removeprefix(f"{Path.cwd()}/") == source, name


@pytest.mark.parametrize(
    ("layers", "seed"),
    [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)],
    ids=["default", "user", "project", "environment", "command line"],
)
def test_each_layer_wins_over_the_ones_below(layers: int, seed: int) -> None:
    Path("ubq.toml").write_text('extends = "smoke"\n' + ("seed = 2\n" if layers >= 2 else ""))
    if layers >= 1:
        user_config("seed = 1\n")
    environ = {"UBQ_SEED": "3"} if layers >= 3 else {}
    assert load_config(None, {"seed": "4"} if layers >= 4 else {}, environ=environ).config.seed == seed


def test_tables_merge_and_lists_replace() -> None:
    Path("ubq.toml").write_text('extends = "demo"\n[model]\ndim_mults = [1, 1]\n')
    model = load_config(environ={}).config.model
    assert model.dim_mults == (1, 1)
    assert model.encoder_dim == load_config("demo", isolated=True).config.model.encoder_dim


def test_an_empty_table_changes_nothing() -> None:
    Path("ubq.toml").write_text('extends = "smoke"\n[model]\n[qat]\n[qat.diffusion]\n')
    assert load_config(environ={}).config == load_config("smoke", isolated=True).config


def test_a_key_of_qat_is_the_default_of_both_stages() -> None:
    Path("ubq.toml").write_text("[qat]\nepochs = 4\nlr = 1e-3\n[qat.decoders]\nepochs = 2\n")
    qat = load_config(environ={}).config.qat
    assert (qat.decoders.epochs, qat.diffusion.epochs) == (2, 4)
    assert (qat.decoders.lr, qat.diffusion.lr) == (1e-3, 1e-3)
    # A higher layer means what it says, whatever a lower one fixed for one stage.
    qat = load_config(overrides={"qat.epochs": 7}, environ={}).config.qat
    assert (qat.decoders.epochs, qat.diffusion.epochs) == (7, 7)


def test_epochs_of_a_higher_layer_win_over_steps_of_a_lower_one() -> None:
    assert load_config("smoke", isolated=True).config.qat.steps > 0
    qat = load_config("smoke", {"qat.epochs": "0"}, isolated=True).config.qat
    assert (qat.decoders.epochs, qat.decoders.steps, qat.diffusion.steps) == (0, 0, 0)


def test_the_named_preset_wins_over_extends_and_the_project_keys_stay() -> None:
    Path("ubq.toml").write_text('extends = "demo"\nseed = 5\n')
    loaded = load_config("smoke", environ={})
    assert (loaded.preset, loaded.config.seed, loaded.config.model.encoder_dim) == ("smoke", 5, 16)
    assert loaded.config.run.name == "smoke"
    assert loaded.config.export.name == "smoke"


def test_extends_lists_files_and_chains() -> None:
    Path("mine").mkdir()
    Path("mine/low.toml").write_text('extends = "smoke"\nseed = 1\nthreads = 1\n')
    Path("mine/high.toml").write_text('extends = ["./low.toml", "_edge"]\nthreads = 2\n')
    loaded = load_config("mine/high.toml", isolated=True)
    assert (loaded.config.seed, loaded.config.threads, loaded.config.model.encoder_dim) == (1, 2, 128)
    assert loaded.config.model.velocity_latent == 8
    assert loaded.preset == "high"


def test_a_circle_of_extends_is_refused() -> None:
    Path("a.toml").write_text('extends = "./b.toml"\n')
    Path("b.toml").write_text('seed = 1\nextends = "./a.toml"\n')
    with pytest.raises(ConfigError) as caught:
        load_config("./a.toml", isolated=True)
    (finding,) = caught.value.findings
    assert "a -> b -> a" in finding.allowed
    assert (finding.file, finding.line) == ("b.toml", 2)


def test_nothing_chosen_names_the_presets() -> None:
    with pytest.raises(ConfigError, match=r"demo.*smoke"):
        load_config(environ={})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("run.name=2024", "2024"),
        ("run.name='a b'", "a b"),
        ("quant.keep_float=head,unet.*", ["head", "unet.*"]),
        ('quant.keep_float=["head"]', ["head"]),
        ("quant.keep_float=[]", []),
        ("model.dim_mults=[1,2,2,2]", [1, 2, 2, 2]),
        ("model.dim_mults=1,2,2,2", [1, 2, 2, 2]),
        ("data.normalization=[-1, 1, 1500, 4500]", [-1.0, 1.0, 1500.0, 4500.0]),
        ("quant.convert_conv1d=false", False),
        ("data.train_seismic=", ""),
    ],
)
def test_text_from_the_command_line(text: str, value: object) -> None:
    key = tuple(text.partition("=")[0].split("."))
    overrides = parse_assignments([text])
    if key == ("data", "train_seismic"):
        overrides["data.train_velocity"] = ""
    assert values_of(load_config("smoke", overrides, isolated=True).config)[key] == value


def test_an_assignment_without_equals_is_refused() -> None:
    with pytest.raises(UsageError, match="KEY=VALUE"):
        parse_assignments(["qat.epochs"])


def test_frozen_configuration_reads_back_and_ignores_every_layer() -> None:
    loaded = load_config(
        "smoke",
        {"run.dir": 'a "b"\\\n\x7f\u4e2d', "data.normalization": [0, 1, 2, 3], "qat.decoders.epochs": 5},
        environ={},
    )
    Path("config.toml").write_text(write_frozen(loaded.config, loaded.provenance), encoding="utf-8")
    Path("ubq.toml").write_text("seed = 99\n")
    assert read_frozen(Path("config.toml")) == loaded.config


def test_sampling_steps_resolve() -> None:
    def steps(**overrides: object) -> int:
        keyed = {k.replace("__", "."): v for k, v in overrides.items()}
        return load_config("smoke", keyed, isolated=True).config.sampling_steps

    assert steps(export__solver="ddpm") == 32
    assert steps() == 10
    assert steps(export__steps=5) == 5
    assert steps(model__diffusion_steps=8) == 8


def test_the_environment_is_a_source_of_pydantic_settings() -> None:
    from pydantic_settings import BaseSettings, SettingsConfigDict

    from ubq.config.environment import EnvironmentSource

    environ = {
        "UBQ_QAT__EPOCHS": "3",
        "UBQ_QAT__DIFFUSION": "{epochs = 4, lr = 1e-3}",
        "UBQ_MODEL__DIM_MULTS": "1,2,4",
        "UBQ_RUN__NAME": "7",
        "UBQ_LANG": "zh",
        "OTHER": "1",
    }

    class Settings(BaseSettings):
        model_config = SettingsConfigDict(extra="forbid")
        qat: dict[str, object]
        model: dict[str, list[int]]
        run: dict[str, str]

        @classmethod
        def settings_customise_sources(cls, *_: object, **__: object) -> tuple[EnvironmentSource, ...]:  # type: ignore[override]
            return (EnvironmentSource(environ),)

    assert Settings().model_dump() == {
        "qat": {"epochs": 3, "diffusion": {"epochs": 4, "lr": 1e-3}},
        "model": {"dim_mults": [1, 2, 4]},
        "run": {"name": "7"},
    }
