"""``ubq config`` and ``ubq presets`` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ubq.cli import config, presets
from ubq.config.load import ConfigError, load_config
from ubq.errors import UsageError

TEN_MISTAKES = """\
extends = "smoke"
seed = "one"
thread = 2
[run]
dirs = "x"
[data]
val_fraction = 1.5
[model]
variant = "papr"
[qat]
lr = 0
warmup = [0.1]
[quant]
backend = "qnnpak"
keep_float = "head"
[export]
steps = 1000
"""


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [n for n in os.environ if n.startswith("UBQ_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)


def run(*args: str) -> Result:
    app = {"config": config.app, "presets": presets.app}[args[0]]
    return CliRunner().invoke(app, list(args[1:]))


def test_ten_mistakes_are_printed_in_one_go_and_exit_2() -> None:
    Path("ubq.toml").write_text(TEN_MISTAKES)
    text = run("config", "validate")
    assert text.exit_code == 2
    assert sum(line.startswith("ubq.toml:") for line in text.stderr.splitlines()) == 10
    found = run("config", "validate", "--json")
    assert found.exit_code == 2
    findings = json.loads(found.stdout)["findings"]
    assert len(findings) == 10
    assert all(set(f) == {"file", "line", "key", "given", "allowed", "suggestion"} for f in findings)
    assert [f["line"] for f in findings] == [2, 3, 5, 7, 9, 11, 12, 14, 15, 17]


def test_validate_judges_files_apart_from_this_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UBQ_SEED", "-3")
    Path("good.toml").write_text('extends = "smoke"\n')
    Path("bad.toml").write_text("seed = -1\n")
    assert run("config", "validate", "good.toml").exit_code == 0
    result = run("config", "validate", "good.toml", "bad.toml", "gone.toml", "--json")
    assert result.exit_code == 2
    assert [f["file"] for f in json.loads(result.stdout)["findings"]] == ["bad.toml", "gone.toml"]
    assert run("config", "validate", "--preset", "smoke").exit_code == 2


def test_show_prints_toml_that_is_the_configuration() -> None:
    Path("ubq.toml").write_text('extends = "smoke"\nseed = 3\n')
    expected = load_config().config
    for option in ([], ["--resolved"], ["--provenance"], ["--resolved", "--provenance"]):
        shown = run("config", "show", *option)
        assert shown.exit_code == 0
        Path("copy.toml").write_text(shown.stdout)
        assert load_config(project_file=Path("copy.toml"), isolated=True).config == expected
    assert "seed = 3  # ubq.toml:2" in run("config", "show", "--provenance").stdout
    assert "seismic_samples" not in run("config", "show").stdout
    parsed = json.loads(run("config", "show", "--resolved", "--provenance", "--json").stdout)
    assert parsed["config"]["seed"] == 3
    assert parsed["provenance"]["seed"] == "ubq.toml:2"
    assert parsed["preset"] == "smoke"


def test_init_set_show_round_trip() -> None:
    assert run("config", "init", "--preset", "smoke").exit_code == 0
    assert isinstance(run("config", "init").exception, UsageError)
    assert run("config", "set", "qat.epochs", "30").exit_code == 0
    assert load_config().config.qat.diffusion.epochs == 30
    assert isinstance(run("config", "set", "qat.epochs", "many").exception, ConfigError)


def test_diff_names_runs_files_and_presets() -> None:
    from ubq.config.load import write_frozen

    for name, seed in (("a", 1), ("b", 2)):
        folder = Path("runs") / name
        folder.mkdir(parents=True)
        (folder / "config.toml").write_text(write_frozen(load_config("smoke", {"seed": seed}).config))
    assert run("config", "diff", "a", "b").stdout == "seed  1 -> 2\n"
    assert run("config", "diff", "a", "a").stdout == "no difference\n"
    changes = json.loads(run("config", "diff", "runs/a", "smoke", "--json").stdout)["changes"]
    assert changes == [{"key": "seed", "a": 1, "b": 0}]
    unknown = run("config", "diff", "a", "smokke").exception
    assert isinstance(unknown, UsageError)
    assert "smoke" in unknown.fix


def test_schema_and_docs_print() -> None:
    assert json.loads(run("config", "schema").stdout)["additionalProperties"] is False
    assert "--decoder-batch-size" in run("config", "docs").stdout


def test_presets_list_show_copy() -> None:
    assert run("presets", "list").stdout.count("\n") == 32
    listed = json.loads(run("presets", "list", "--json").stdout)["presets"]
    assert {p["name"] for p in listed} >= {"demo", "smoke", "style-b-edge"}
    assert all(p["description"] for p in listed)
    assert not any(p["name"].startswith("_") for p in listed)
    assert run("presets", "show", "demo").stdout.startswith("#:schema")
    assert all(p["data"]["amplitude_range"][0] < 0 < p["data"]["val_numbers"][0] for p in listed)
    assert "# train_files: 120" in run("presets", "show", "style-b").stdout
    assert "# preset _edge" in run("presets", "show", "style-b-edge", "--resolved").stdout

    assert run("presets", "copy", "style-b-edge").exit_code == 0
    mine = load_config("./style-b-edge.toml", isolated=True).config
    shipped = load_config("style-b-edge", isolated=True).config
    assert mine.model == shipped.model
    assert mine.run == shipped.run
    assert isinstance(run("presets", "copy", "style-b-edge").exception, UsageError)
    unknown = run("presets", "show", "dmeo").exception
    assert isinstance(unknown, UsageError)
    assert "demo" in unknown.fix
