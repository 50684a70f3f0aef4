"""The configuration that the wizard is about to write."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path

import pytest
from harness import make_run

from ubq.config import keys
from ubq.config.load import load_config
from ubq.config.rendering import values_of
from ubq.errors import UsageError
from ubq.tui import questions
from ubq.tui.draft import Draft, apply_to_file, free_run_name, option

FILE = Path("ubq.toml")


def test_a_new_file_holds_the_preset_and_the_answers_alone() -> None:
    draft = Draft(FILE, "smoke")
    assert draft.answer("qat.epochs", "7") == ""
    assert draft.answer("export.formats", ["torchscript"]) == ""  # as it is: nothing to write
    draft.save()
    written = tomllib.loads(FILE.read_text())
    assert written == {"extends": "smoke", "qat": {"epochs": 7}}
    assert FILE.read_text().startswith("#:schema")


def test_comments_and_order_of_an_existing_file_are_kept() -> None:
    FILE.write_text('# mine\nextends = "demo"\n\n[qat]\nlr = 1e-4 # slow\n')
    draft = Draft(FILE)
    draft.answer("qat.lr", "2e-4")
    draft.answer("quant.backend", "x86")
    draft.save()
    text = FILE.read_text()
    assert text.startswith('# mine\nextends = "demo"\n\n[qat]\nlr = 0.0002 # slow\n')
    assert tomllib.loads(text)["quant"] == {"backend": "x86"}


def test_what_an_editor_wrote_meanwhile_is_kept() -> None:
    FILE.write_text('extends = "demo"\n')
    draft = Draft(FILE)
    draft.answer("qat.epochs", "7")
    FILE.write_text('extends = "demo"\nseed = 3\n')
    draft.save()
    assert tomllib.loads(FILE.read_text()) == {"extends": "demo", "seed": 3, "qat": {"epochs": 7}}


def test_an_answer_taken_back_is_no_change() -> None:
    draft = Draft(FILE, "smoke")
    draft.answer("qat.batch_size", "16")
    assert draft.changes
    draft.answer("qat.batch_size", "8")
    assert draft.changes == {}


@pytest.mark.parametrize(
    ("key", "text", "needs"),
    [
        ("qat.epochs", "many", "integer >= 0"),
        ("qat.epochs", "", "integer >= 0"),
        ("qat.lr", "-1", "float > 0"),
        ("qat.warmup", "0.5, 0.1, 0.9", "shares that do not fall"),
        ("model.dim_mults", "1, x", "list of at least 1"),
        ("device", "gpu", '"cuda"'),
        ("export.steps", "9999", "at most model.diffusion_steps (32)"),
    ],
)
def test_a_wrong_answer_says_what_is_allowed_and_is_kept(key: str, text: str, needs: str) -> None:
    draft = Draft(FILE, "smoke")
    problem = draft.answer(key, text)
    assert needs in problem
    assert draft.value(key) == draft.changes[key]
    with pytest.raises(UsageError):
        draft.save()
    assert not FILE.exists()


def test_the_command_line_means_the_same_configuration() -> None:
    Path("my maps/a").mkdir(parents=True)
    draft = Draft(FILE, "smoke")
    answers = {
        "data.train_velocity": "my maps/a",
        "qat.epochs": "7",
        "qat.warmup": "0.1, 0.2, 0.3",
        "quant.convert_conv1d": False,
        "quant.scheme": "default",
        "quant.keep_float": "unet.a*, b",
        "export.solver": "ddim",
        "run.name": "mine",
    }
    for key, value in answers.items():
        assert draft.answer(key, value) == ""
    parts = shlex.split(draft.command)
    assert parts[:4] == ["ubq", "run", "--preset", "smoke"]
    assert "--no-convert-conv1d" in parts
    assert "--no-use-aggressive-quantization" in parts
    overrides: dict[str, object] = {}
    from ubq.config.flags import FLAGS

    rest = iter(parts[4:])
    for part in rest:
        flag = next((f for f in FLAGS if part in (f.option, f"--no-{f.option[2:]}") and f.key), None)
        if part == "--set":
            key, _equals, value = next(rest).partition("=")
            overrides[key] = value
        elif flag and flag.switch:
            overrides[flag.key] = flag.switch[0] if part == flag.option else flag.switch[1]
        else:
            assert flag
            overrides[flag.key] = next(rest)
    assert load_config("smoke", overrides, isolated=True).config == draft.loaded.config


def test_the_environment_that_wins_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UBQ_QAT__LR", "0.5")
    draft = Draft(FILE, "smoke")
    assert "UBQ_QAT__LR wins" in draft.answer("qat.lr", "0.25")


def test_a_file_with_mistakes_is_refused_with_its_line() -> None:
    FILE.write_text('extends = "demo"\n[qat]\nepoch = 3\n')
    with pytest.raises(UsageError, match=r"ubq\.toml:3"):
        Draft(FILE)


def test_every_question_is_a_key_with_help_and_asked_once() -> None:
    asked = [q.key.name for step in [*questions.steps(), questions.review()] for q in step.questions]
    assert len(asked) == len(set(asked))
    assert all(tuple(name.split(".")) in keys.leaves() for name in asked)
    assert all(q.key.help and q.label for step in questions.steps() for q in step.questions)
    # What the issue of the wizard names.
    assert {"quant.keep_float", "qat.warmup", "pretrained.path", "export.solver", "device"} <= set(asked)


@pytest.mark.parametrize("preset", ["smoke", "curvefault-a-edge"])
def test_a_value_as_it_is_shown_is_an_answer_that_changes_nothing(preset: str) -> None:
    draft = Draft(FILE, preset)
    for path, value in values_of(draft.loaded.config).items():
        if path[0] not in ("extends", "description"):
            assert draft.answer(".".join(path), questions.shown(value)) == "", path
    assert draft.changes == {}


def test_names_of_runs_that_are_there_are_not_taken_again() -> None:
    assert free_run_name(Path("runs"), "smoke") == "smoke"
    make_run("smoke")
    make_run("smoke-2")
    assert free_run_name(Path("runs"), "smoke") == "smoke-3"


def test_options_have_their_old_names_where_there_are_any() -> None:
    assert option("qat.epochs", 3) == ["--epochs", "3"]
    assert option("quant.convert_conv1d", True) == ["--convert-conv1d"]
    assert option("quant.scheme", "default") == ["--no-use-aggressive-quantization"]
    assert option("export.steps", 8) == ["--set", "export.steps=8"]


def test_a_fix_goes_into_the_file_that_the_run_came_from_alone() -> None:
    run = make_run("smoke")
    assert not apply_to_file(FILE, {"qat.lr": 0.5}, run)
    FILE.write_text('extends = "smoke" # mine\n')
    assert apply_to_file(FILE, {"qat.lr": 0.5}, run)
    assert tomllib.loads(FILE.read_text())["qat"] == {"lr": 0.5}
    assert "# mine" in FILE.read_text()
    assert not apply_to_file(FILE, {"qat.lr": 0.25}, make_run("another"))
    assert tomllib.loads(FILE.read_text())["qat"] == {"lr": 0.5}
