"""Every path through the screens, by keys."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from harness import ANSWERS, STAGES, drive, make_run, messages, screen_text, settle, until
from textual.pilot import Pilot
from textual.widget import Widget
from textual.widgets import OptionList, RichLog, Static

from ubq import i18n
from ubq.jobs import detach
from ubq.jobs.checks.check import Check
from ubq.jobs.detach import Detached
from ubq.jobs.owner import this_process
from ubq.stages.paths import RunPaths
from ubq.tui import checklist, live, logscreen, progress, runlist, wizard
from ubq.tui.app import UbqApp
from ubq.tui.checklist import ChecklistScreen
from ubq.tui.dialogs import Ask, Help, Menu
from ubq.tui.draft import free_run_name, resume_arguments
from ubq.tui.fields import Field
from ubq.tui.pages import Checks
from ubq.tui.progress import ProgressScreen
from ubq.tui.start import StartScreen
from ubq.tui.wizard import WizardScreen, focused_field


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], Path]]:
    """Jobs that the interface would have started."""
    jobs: list[tuple[list[str], Path]] = []

    def start(arguments: Sequence[str], run: Path, wait: float = 0.0) -> Detached:
        jobs.append((list(arguments), run))
        run.mkdir(parents=True, exist_ok=True)
        return Detached(os.getpid(), None, True, "")  # a process that lives

    monkeypatch.setattr(progress, "start_detached", start)
    return jobs


def alive(run: Path) -> None:
    """Make this test's process the one that holds a run."""
    (run / "owner.json").write_text(json.dumps(dataclasses.asdict(this_process("ubq run"))))


async def open_wizard(pilot: Pilot[int], preset: str = "smoke") -> WizardScreen:
    app = pilot.app
    assert isinstance(app, UbqApp)
    app.open_wizard(preset)
    await settle(pilot)
    screen = app.screen
    assert isinstance(screen, WizardScreen)
    return screen


async def focus(pilot: Pilot[int], key: str) -> Field:
    """Put the focus on the field of a key, as Tab would."""
    screen = pilot.app.screen
    field = next(f for f in screen.query(Field) if f.name_of_key == key and f.display)
    field.control.focus()
    await settle(pilot)
    return field


async def answer(pilot: Pilot[int], key: str, text: str) -> Field:
    """Type into the field of a key and leave it."""
    field = await focus(pilot, key)
    field.control.value = ""  # type: ignore[union-attr]
    await pilot.press(*({"_": "underscore", ".": "full_stop", "-": "minus", "/": "slash"}.get(c, c) for c in text))
    await pilot.press("tab")
    await settle(pilot)
    return field


async def step(pilot: Pilot[int], name: str) -> None:
    """Go forward to a step."""
    screen = pilot.app.screen
    assert isinstance(screen, WizardScreen)
    for _attempt in range(6):
        if screen.step.id == name:
            return
        await pilot.press("ctrl+g")
        await settle(pilot)
    assert screen.step.id == name


# Start


def test_the_start_lists_runs_newest_first_and_presets() -> None:
    make_run("older", "interrupted")
    make_run("bad")
    Path("runs/bad/state.json").write_text("{broken")

    async def steps(pilot: Pilot[int]) -> None:
        text = screen_text(pilot.app)  # type: ignore[arg-type]
        assert "older" in text
        assert "interrupted" in text
        assert "unreadable" in text
        assert "train-diffusion 62 %" in text
        assert "smoke" in text
        await pilot.press("n")
        await until(pilot, lambda: "memory for training" in screen_text(pilot.app))  # type: ignore[arg-type]

    drive(steps)


def unwrapped(text: str) -> str:
    return " ".join(text.split())


def test_the_time_of_a_preset_is_that_of_a_finished_run_or_said_to_be_an_estimate() -> None:
    async def steps(pilot: Pilot[int]) -> None:
        await pilot.press("n")
        app: Any = pilot.app
        await until(pilot, lambda: "time estimated: 1 min on" in unwrapped(screen_text(app)))
        make_run("smoke-2", "interrupted")
        make_run("smoke")  # six stages of 12 s
        await until(pilot, lambda: "run smoke took 1 min 12 s" in unwrapped(screen_text(app)))

    drive(steps)


def test_enter_opens_a_run_and_o_comes_back() -> None:
    make_run("mine", "interrupted")

    async def steps(pilot: Pilot[int]) -> None:
        await pilot.press("enter")
        await settle(pilot)
        assert isinstance(pilot.app.screen, ProgressScreen)
        await pilot.press("o")
        await settle(pilot)
        assert isinstance(pilot.app.screen, StartScreen)

    drive(steps)


def test_r_on_the_start_resumes(started: list[tuple[list[str], Path]]) -> None:
    make_run("mine", "interrupted")

    async def steps(pilot: Pilot[int]) -> None:
        await pilot.press("r")
        await until(pilot, lambda: bool(started))

    drive(steps)
    assert started == [(["resume", str(Path("runs/mine").absolute())], Path("runs/mine"))]


def test_a_run_is_opened_again_with_its_values_and_goes_on(
    probe: list[tuple[str, str]], started: list[tuple[list[str], Path]]
) -> None:
    run = make_run("mine", "failed")

    async def steps(pilot: Pilot[int]) -> None:
        await pilot.press("e")
        await settle(pilot)
        await step(pilot, "training")
        await answer(pilot, "qat.batch_size", "2")
        await step(pilot, "review")
        assert "Name of the run" not in screen_text(pilot.app)  # type: ignore[arg-type]
        await pilot.press("enter")
        await until(pilot, lambda: bool(started))

    drive(steps)
    assert started == [(["resume", str(run.absolute()), "--yes", "--set", "qat.batch_size=2"], run)]
    assert not Path("ubq.toml").exists()


def test_a_run_is_duplicated_under_a_free_name(
    probe: list[tuple[str, str]], started: list[tuple[list[str], Path]]
) -> None:
    run = make_run("mine")

    async def steps(pilot: Pilot[int]) -> None:
        await pilot.press("d")
        await settle(pilot)
        await step(pilot, "review")
        await pilot.press("enter")
        await until(pilot, lambda: bool(started))

    drive(steps)
    ((arguments, folder),) = started
    assert folder.absolute() == Path("runs/mine-2").absolute()
    assert arguments[:3] == ["run", "--config", str(run / "config.toml")]
    assert arguments[-2:] == ["--run", "mine-2"]


def test_a_run_is_renamed_and_keeps_the_highlight() -> None:
    make_run("first")
    make_run("second", "interrupted")

    async def steps(pilot: Pilot[int]) -> None:
        highlight(pilot.app, "run:runs/first")
        await pilot.press("m", "ctrl+u", *"third", "enter")
        await settle(pilot)
        option = pilot.app.screen.query_one(OptionList).highlighted_option
        assert option is not None
        assert option.id == "run:runs/third"

    drive(steps)
    assert {path.name for path in Path("runs").iterdir()} == {"second", "third"}


def test_a_run_is_deleted_after_asking_twice_and_never_while_running() -> None:
    make_run("mine", "interrupted")
    alive(make_run("busy", "running"))

    async def steps(pilot: Pilot[int]) -> None:
        highlight(pilot.app, "run:runs/busy")
        await pilot.press("x")
        await settle(pilot)
        assert isinstance(pilot.app.screen, StartScreen)
        highlight(pilot.app, "run:runs/mine")
        await pilot.press("x", "down", "enter")
        await settle(pilot)
        assert Path("runs/mine").exists()
        assert "gone for good" in screen_text(pilot.app)  # type: ignore[arg-type]
        await pilot.press("enter")  # which keeps it
        await settle(pilot)
        await pilot.press("x", "down", "enter")
        await settle(pilot)
        await pilot.press("down", "enter")
        await until(pilot, lambda: not Path("runs/mine").exists())

    drive(steps)
    assert Path("runs/busy").exists()


def test_two_runs_are_compared() -> None:
    make_run("good")
    make_run("bad", failed=("lattice",))
    config = Path("runs/bad/config.toml")
    config.write_text(config.read_text().replace('observer = "moving_average"', 'observer = "mse"'))

    async def steps(pilot: Pilot[int]) -> None:
        highlight(pilot.app, "run:runs/good")
        await pilot.press("c")
        highlight(pilot.app, "run:runs/bad")
        await pilot.press("c")
        await settle(pilot)
        text = " ".join(screen_text(pilot.app).split())  # type: ignore[arg-type]
        assert "good beside bad" in text
        assert "no lattice in the maps (<= 2) ✓ 1.2 ✗ 1.2" in text
        assert 'quant.observer "moving_average" "mse"' in text

    drive(steps, size=(120, 40))


def test_the_list_is_filtered_and_vi_moves_in_it(probe: list[tuple[str, str]]) -> None:
    make_run("mine", "interrupted")

    async def steps(pilot: Pilot[int]) -> None:
        await pilot.press("slash", *"style-b", "enter")
        await settle(pilot)
        text = screen_text(pilot.app)  # type: ignore[arg-type]
        assert "style-b-edge" in text
        assert "curvevel" not in text
        assert "mine" not in text
        await pilot.press("j", "enter")
        await settle(pilot)
        screen = pilot.app.screen
        assert isinstance(screen, WizardScreen)
        assert screen.draft.chosen == "style-b-base"

    drive(steps)


def test_values_of_an_old_file_do_not_go_silently_under_a_preset(probe: list[tuple[str, str]]) -> None:
    Path("ubq.toml").write_text('extends = "demo"\n[run]\nname = "demo-2"\n[quant]\nbackend = "x86"\n')

    async def steps(pilot: Pilot[int]) -> None:
        app = pilot.app
        assert isinstance(app, UbqApp)
        app.open_wizard("smoke")
        await settle(pilot)
        assert 'quant.backend = "x86"' in screen_text(app)
        await pilot.press("enter")  # the preset alone
        await settle(pilot)
        screen = app.screen
        assert isinstance(screen, WizardScreen)
        assert screen.draft.loaded.config.quant.backend == "qnnpack"
        assert screen.draft.loaded.config.run.name == "smoke"
        await step(pilot, "review")
        screen.query_one("#save").focus()
        await pilot.press("enter")
        await settle(pilot)

    drive(steps)
    assert tomllib.loads(Path("ubq.toml").read_text()) == {"extends": "smoke"}
    assert "x86" in Path("ubq.toml.before").read_text()


def test_names_of_runs_do_not_creep() -> None:
    make_run("smoke")
    make_run("smoke-2")
    assert free_run_name(Path("runs"), "smoke-2") == "smoke-3"
    make_run("july-24")
    assert free_run_name(Path("runs"), "july-24") == "july-24-2"  # no count of a run july


def test_long_names_are_cut_in_the_middle_and_the_age_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runlist, "age", lambda updated: "5 min ago")
    make_run("curvefault-a-base-with-everything-on-seed-7", "interrupted")

    async def steps(pilot: Pilot[int]) -> None:
        line = next(t for t in screen_text(pilot.app).splitlines() if "interrupted" in t)  # type: ignore[arg-type]
        assert line.endswith("5 min ago")
        assert "curvefau" in line
        assert "seed-7" in line

    drive(steps, size=(60, 20))


def test_no_key_stands_in_the_footer_where_it_cannot_act() -> None:
    make_run("done")

    async def steps(pilot: Pilot[int]) -> None:
        assert "resume" not in screen_text(pilot.app).splitlines()[-1]  # type: ignore[arg-type]
        await pilot.press("enter")
        await settle(pilot)
        footer = screen_text(pilot.app).splitlines()[-1]  # type: ignore[arg-type]
        assert "s stop" not in footer
        assert "resume" not in footer

    drive(steps)


def test_a_run_that_appears_or_vanishes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from ubq.tui import start

    monkeypatch.setattr(start, "REFRESH_S", 0.05)

    async def steps(pilot: Pilot[int]) -> None:
        make_run("late", "interrupted")
        await until(pilot, lambda: "late" in screen_text(pilot.app))  # type: ignore[arg-type]
        Path("runs/late").rename("elsewhere")
        await until(pilot, lambda: "late" not in screen_text(pilot.app))  # type: ignore[arg-type]

    drive(steps)


def test_a_broken_configuration_file_is_a_message() -> None:
    Path("ubq.toml").write_text("extends = 'demo'\nseed = -1\n")

    async def steps(pilot: Pilot[int]) -> None:
        await pilot.press("enter")  # the file stands first
        await settle(pilot)
        assert isinstance(pilot.app.screen, StartScreen)
        assert "ubq.toml:2" in messages(pilot.app)  # type: ignore[arg-type]

    drive(steps)


# The wizard


def test_all_the_way_to_a_started_job(probe: list[tuple[str, str]], started: list[tuple[list[str], Path]]) -> None:
    async def steps(pilot: Pilot[int]) -> None:
        await pilot.press("enter")
        await settle(pilot)
        for _step in range(5):
            await pilot.press("ctrl+g")
            await settle(pilot)
        text = screen_text(pilot.app)  # type: ignore[arg-type]
        assert "6 Review" in text
        assert "forward modelling is installed" in text
        assert "! warning" in text
        await pilot.press("enter")
        await until(pilot, lambda: bool(started))
        assert isinstance(pilot.app.screen, ProgressScreen)

    drive(steps)
    assert started == [(["run"], Path("runs/smoke"))]
    assert tomllib.loads(Path("ubq.toml").read_text()) == {"extends": "smoke"}
    assert [question for question, _text in probe] == ["data", "estimate", "estimate", "estimate", "preflight"]


def test_answers_survive_going_back_and_forth(probe: list[tuple[str, str]]) -> None:
    async def steps(pilot: Pilot[int]) -> None:
        screen = await open_wizard(pilot)
        await answer(pilot, "data.synth_samples", "48")
        await step(pilot, "quantisation")
        await focus(pilot, "quant.backend")
        await pilot.press("right")
        await focus(pilot, "quant.convert_conv1d")
        await pilot.press("space")
        await step(pilot, "training")
        await answer(pilot, "qat.epochs", "7")
        await step(pilot, "export")
        await focus(pilot, "export.solver")
        await pilot.press("right", "right")
        for _step in range(4):
            await pilot.press("escape")
            await settle(pilot)
        assert screen.step.id == "data"
        assert "48" in screen_text(pilot.app)  # type: ignore[arg-type]
        await step(pilot, "review")
        assert screen.draft.changes == {
            "data.synth_samples": 48,
            "quant.backend": "x86",
            "quant.convert_conv1d": False,
            "qat.epochs": 7,
            "export.solver": "ddim",
        }
        await focus(pilot, "run.name")
        screen.query_one("#save").focus()
        await pilot.press("enter")
        await settle(pilot)
        assert isinstance(pilot.app.screen, StartScreen)

    drive(steps)
    assert tomllib.loads(Path("ubq.toml").read_text()) == {
        "extends": "smoke",
        "data": {"synth_samples": 48},
        "quant": {"backend": "x86", "convert_conv1d": False},
        "qat": {"epochs": 7},
        "export": {"solver": "ddim"},
    }


def test_a_wrong_answer_is_marked_and_holds_the_step(probe: list[tuple[str, str]]) -> None:
    async def steps(pilot: Pilot[int]) -> None:
        screen = await open_wizard(pilot)
        await step(pilot, "training")
        await answer(pilot, "qat.epochs", "many")
        assert "! needs integer >= 0" in screen_text(pilot.app)  # type: ignore[arg-type]
        await pilot.press("ctrl+g")
        await settle(pilot)
        assert screen.step.id == "training"
        await pilot.press("escape")  # back is always free
        await settle(pilot)
        assert screen.step.id == "quantisation"
        await step(pilot, "training")
        assert "many" in screen_text(pilot.app)  # type: ignore[arg-type]
        await answer(pilot, "qat.epochs", "3")
        await step(pilot, "export")

    drive(steps)
    assert not Path("ubq.toml").exists()


def test_the_memory_follows_as_one_types(probe: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wizard, "TYPING_S", 0.01)

    async def steps(pilot: Pilot[int]) -> None:
        await open_wizard(pilot)
        await step(pilot, "training")
        before = len(probe)
        await focus(pilot, "qat.batch_size")
        await pilot.press("4")
        await until(pilot, lambda: len(probe) > before)
        assert "qat-decoders 600 MB" in screen_text(pilot.app)  # type: ignore[arg-type]

    drive(steps)
    assert tomllib.loads(probe[-1][1])["qat"] == {"batch_size": 4}  # typed anew


def test_questions_that_do_not_matter_are_not_asked(probe: list[tuple[str, str]]) -> None:
    async def steps(pilot: Pilot[int]) -> None:
        screen = await open_wizard(pilot)

        def asked() -> set[str]:
            return {f.name_of_key for f in screen.page.fields()}

        Path("maps").mkdir()
        assert "data.synth_samples" in asked()
        assert "data.val_velocity" not in asked()
        await answer(pilot, "data.train_velocity", "maps")
        assert "data.synth_samples" not in asked()
        assert "data.val_velocity" in asked()

    drive(steps)


@pytest.mark.parametrize("count", [1e6, 75e9])
def test_samples_are_read_at_once_or_it_says_that_they_were_not(
    count: float, probe: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"id": "data.files", "status": "ok", "figure": "10 pairs", "fix": ""}
    samples = {"id": "data.content", "status": "warning", "figure": "sample 3 is zero", "fix": ""}
    monkeypatch.setitem(ANSWERS, "data", {"checks": [headers], "bytes": count})
    monkeypatch.setitem(ANSWERS, "content", {"checks": [samples]})

    async def steps(pilot: Pilot[int]) -> None:
        await open_wizard(pilot)
        text = " ".join(screen_text(pilot.app).split())  # type: ignore[arg-type]
        assert "10 pairs" in text
        assert ("sample 3 is zero" in text) == (count < 2e9)
        assert ("only headers were read" in text) == (count > 2e9)

    drive(steps)


def test_a_checkpoint_is_looked_into(probe: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("old.pt").touch()
    commands: list[tuple[str, ...]] = []

    async def ubq_json(*arguments: str, timeout: float) -> dict[str, Any]:
        commands.append(arguments)
        return {
            "container": "trainer", "variant": "fork", "sizes": {"encoder_dim": 512, "dim_mults": [1, 2, 2, 2]},
            "weights": "ema", "absent": ["encoder"], "parameters": {"total": 486e6}, "normalization": "fork",
            "problem": "", "notes": ["a note"],
        }  # fmt: skip

    monkeypatch.setattr(live, "ubq_json", ubq_json)

    async def steps(pilot: Pilot[int]) -> None:
        await open_wizard(pilot)
        await step(pilot, "checkpoint")
        assert "trained first" in screen_text(pilot.app)  # type: ignore[arg-type]
        await answer(pilot, "pretrained.path", "nothing.pt")
        assert "nothing.pt does not exist" in screen_text(pilot.app)  # type: ignore[arg-type]
        await answer(pilot, "pretrained.path", "old.pt")
        text = screen_text(pilot.app)  # type: ignore[arg-type]
        assert "trainer, variant fork, (512; 1, 2, 2, 2)" in text
        assert "486.0 M parameters" in text
        assert "absent: encoder" in text

    drive(steps, size=(120, 40))
    assert commands == [("checkpoint", "inspect", "old.pt", "--json", "--weights", "ema")]


def test_help_tells_of_the_focused_field_and_the_keys(probe: list[tuple[str, str]]) -> None:
    async def steps(pilot: Pilot[int]) -> None:
        await open_wizard(pilot)
        await step(pilot, "quantisation")
        await pilot.press("question_mark")
        await settle(pilot)
        assert isinstance(pilot.app.screen, Help)
        text = screen_text(pilot.app)  # type: ignore[arg-type]
        assert "quant.backend" in text
        assert "Integer engine" in text
        assert 'one of "qnnpack"' in text
        await pilot.press("escape")
        await step(pilot, "training")
        await pilot.press("question_mark")  # in a line of text, too
        await settle(pilot)
        assert isinstance(pilot.app.screen, Help)
        assert "Device to train on" in screen_text(pilot.app)  # type: ignore[arg-type]

    drive(steps)


def test_leaving_with_answers_asks_first(probe: list[tuple[str, str]]) -> None:
    async def steps(pilot: Pilot[int]) -> None:
        await open_wizard(pilot)
        await answer(pilot, "data.synth_samples", "48")
        await pilot.press("escape")
        await settle(pilot)
        assert isinstance(pilot.app.screen, Ask)
        await pilot.press("enter")
        await settle(pilot)
        assert isinstance(pilot.app.screen, WizardScreen)
        await pilot.press("escape", "down", "enter")
        await settle(pilot)
        assert isinstance(pilot.app.screen, StartScreen)

    drive(steps)
    assert not Path("ubq.toml").exists()


def test_a_taken_name_is_changed_and_the_command_is_copied(probe: list[tuple[str, str]]) -> None:
    make_run("smoke")

    async def steps(pilot: Pilot[int]) -> None:
        await open_wizard(pilot)
        await step(pilot, "review")
        await pilot.press("c")
        await settle(pilot)

    app = drive(steps)
    assert app.clipboard == "ubq run --preset smoke --run smoke-2"


def test_a_full_disk_while_saving_is_a_message(probe: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    from ubq.config import editing

    def full(file: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(editing, "write_atomic", full)

    async def steps(pilot: Pilot[int]) -> None:
        await open_wizard(pilot)
        await step(pilot, "review")
        await pilot.press("enter")
        await settle(pilot)
        assert isinstance(pilot.app.screen, WizardScreen)
        assert "No space left" in messages(pilot.app)  # type: ignore[arg-type]

    drive(steps)


def test_next_never_passes_a_path_that_does_not_exist(probe: list[tuple[str, str]]) -> None:
    async def steps(pilot: Pilot[int]) -> None:
        screen = await open_wizard(pilot)
        field = await answer(pilot, "data.train_velocity", "nowhere")
        await pilot.press("ctrl+g")
        await settle(pilot)
        assert screen.step.id == "data"
        assert screen.focused is field.control
        assert "! nowhere does not exist" in screen_text(pilot.app)  # type: ignore[arg-type]
        Path("nowhere").mkdir()
        await pilot.press("ctrl+g")
        await settle(pilot)
        assert screen.step.id == "checkpoint"

    drive(steps)


def test_next_waits_for_the_look_into_a_checkpoint_and_stops_at_one_that_cannot_be_read(
    probe: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("torn.pt").touch()
    seen = asyncio.Event()

    async def ubq_json(*arguments: str, timeout: float) -> dict[str, Any]:
        await seen.wait()
        return {"error": "torn.pt is no checkpoint", "fix": "", "told": True}

    monkeypatch.setattr(live, "ubq_json", ubq_json)

    async def steps(pilot: Pilot[int]) -> None:
        screen = await open_wizard(pilot)
        await step(pilot, "checkpoint")
        field = await answer(pilot, "pretrained.path", "torn.pt")
        await pilot.press("ctrl+g")
        await settle(pilot)
        assert screen.step.id == "checkpoint"
        assert "being looked at" in messages(pilot.app)  # type: ignore[arg-type]
        seen.set()
        await until(pilot, lambda: screen.focused is field.control)
        assert screen.step.id == "checkpoint"
        assert "! torn.pt is no checkpoint" in screen_text(pilot.app)  # type: ignore[arg-type]

    drive(steps)


def test_start_starts_nothing_that_failed_and_enter_goes_to_what_mends_it(
    probe: list[tuple[str, str]], started: list[tuple[list[str], Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = {"id": "device", "status": "ok", "figure": "cpu", "fix": ""}
    memory = {"id": "memory", "status": "failed", "figure": "9 GB needed", "fix": "less", "why": "of one step"}
    answered = {"checks": [fine, memory], "plan": [], "exists": False}
    monkeypatch.setitem(ANSWERS, "preflight", answered)

    async def steps(pilot: Pilot[int]) -> None:
        screen = await open_wizard(pilot)
        await step(pilot, "review")
        assert "cannot start yet" in screen_text(pilot.app)  # type: ignore[arg-type]
        await pilot.press("enter")
        await settle(pilot)
        assert not started
        assert isinstance(screen.focused, Checks)
        assert "of one step" in screen_text(pilot.app)  # type: ignore[arg-type]  # help follows the focus
        await pilot.press("enter")
        await settle(pilot)
        field = wizard.focused_field(screen.focused)
        assert field is not None
        assert field.name_of_key == "qat.batch_size"
        monkeypatch.setitem(ANSWERS, "preflight", {**answered, "checks": [fine]})
        await answer(pilot, "qat.batch_size", "2")
        await step(pilot, "review")
        await pilot.press("enter")
        await until(pilot, lambda: bool(started))

    drive(steps)


# Progress


def test_progress_shows_stages_curve_and_log() -> None:
    run = make_run("mine", "running")
    alive(run)

    async def steps(pilot: Pilot[int]) -> None:
        pilot.app.open_run(run)  # type: ignore[attr-defined]
        await settle(pilot)
        text = screen_text(pilot.app)  # type: ignore[arg-type]
        assert "mine ▶ running" in text
        assert "2.5 steps/s" in text
        assert "ETA 1 min 15 s" in text
        assert "train-diffusion: ⠒ training  ○ validation" in text
        assert "10:00:05 qat-diffusion: complete" in text
        await pilot.press("up")
        await settle(pilot)
        assert "train-seismic: ⠒ training" in screen_text(pilot.app)  # type: ignore[arg-type]

    drive(steps)


def test_the_log_shows_its_end_at_any_size_until_it_is_scrolled() -> None:
    run = make_run("mine", "interrupted")
    with open(run / "run.log", "a") as log:
        log.writelines(f"2026-01-01T11:00:{i:02d}Z line {i}\n" for i in range(40))

    async def steps(pilot: Pilot[int]) -> None:
        app = pilot.app
        assert isinstance(app, UbqApp)
        app.open_run(run)
        await settle(pilot)
        await pilot.resize_terminal(80, 18)
        await settle(pilot)
        assert "line 39" in screen_text(app)
        app.screen.query_one("#log", RichLog).scroll_up(animate=False)
        await settle(pilot)
        with open(run / "run.log", "a") as log:
            log.write("2026-01-01T11:00:50Z and more\n")
        await until(pilot, lambda: bool(app.screen.query_one("#log", RichLog).lines[-1].text.endswith("and more")))
        await settle(pilot)
        assert "line 38" in screen_text(app)
        assert "and more" not in screen_text(app)
        app.screen.query_one("#log", RichLog).scroll_end(animate=False)
        await settle(pilot)
        assert "and more" in screen_text(app)

    drive(steps)


def test_the_log_on_the_whole_screen_wraps_is_searched_and_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logscreen, "POLL_S", 0.02)
    run = make_run("mine", "interrupted")
    long = "word " * 30
    with open(run / "run.log", "a") as log:
        log.write(f"2026-01-01T11:00:00Z {long}end of it\n")

    async def steps(pilot: Pilot[int]) -> None:
        app = pilot.app
        assert isinstance(app, UbqApp)
        app.open_run(run)
        await settle(pilot)
        await pilot.press("l")
        await settle(pilot)
        assert "end of it" in screen_text(app)
        await pilot.press("w")
        await settle(pilot)
        text = app.screen.query_one(logscreen.LogText)
        assert not text.soft_wrap
        await pilot.press("g", "slash", *"seismic", "enter")
        await settle(pilot)
        assert text.selected_text == "seismic"
        await pilot.press("escape")  # not in the middle of a search: back
        await settle(pilot)
        assert isinstance(app.screen, ProgressScreen)
        await pilot.press("l", "w", "k", "y")
        await settle(pilot)
        assert app.clipboard.endswith("qat-diffusion: complete in 12 s")
        await pilot.press("G")
        with open(run / "run.log", "a") as log:
            log.write("2026-01-01T11:00:01Z and more\n")
        await until(pilot, lambda: "and more" in screen_text(app))

    drive(steps)


def test_losses_are_zoomed_and_their_axis_is_turned() -> None:
    run = make_run("mine", "interrupted", rows=64)

    async def steps(pilot: Pilot[int]) -> None:
        app = pilot.app
        assert isinstance(app, UbqApp)
        app.open_run(run)
        await settle(pilot)
        await pilot.press("plus", "v")
        await settle(pilot)
        text = screen_text(app)
        assert "logarithmic · last 1/2" in text
        assert "└32" in text or "└33" in text
        await pilot.press("minus", "v")
        await settle(pilot)
        assert "linear" in screen_text(app)
        assert "last 1/2" not in screen_text(app)

    drive(steps)


def test_what_is_wrong_stands_on_the_screen_with_its_fix_and_is_not_told_twice() -> None:
    run = make_run("mine", "failed")

    async def steps(pilot: Pilot[int]) -> None:
        pilot.app.open_run(run)  # type: ignore[attr-defined]
        await settle(pilot)
        text = screen_text(pilot.app)  # type: ignore[arg-type]
        assert "! train-diffusion: out of memory" in text
        assert "smaller batches" in text
        assert not messages(pilot.app)  # type: ignore[arg-type]

    drive(steps, size=(120, 40))


def test_the_end_of_a_run_rings_the_bell_unless_it_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "POLL_S", 0.02)
    rung: list[str] = []
    monkeypatch.setattr(UbqApp, "bell", lambda self: rung.append("bell"))

    async def steps(pilot: Pilot[int]) -> None:
        app = pilot.app
        assert isinstance(app, UbqApp)
        for name in ("loud", "quiet"):
            run = make_run(name, "running")
            alive(run)
            app.open_run(run)
            await settle(pilot, 0.1)
            (run / "owner.json").unlink()
            await until(pilot, lambda: "crashed" in screen_text(app))
            await settle(pilot, 0.1)
            if name == "loud":
                await pilot.press("f4")
                await settle(pilot)

    drive(steps)
    assert rung == ["bell"]


def test_the_samples_are_shown_in_half_blocks() -> None:
    from PIL import Image

    run = make_run("mine")
    Image.new("RGB", (40, 40), "red").save(run / "exported_models/samples.png")

    async def steps(pilot: Pilot[int]) -> None:
        pilot.app.push_screen(ChecklistScreen(run))
        await settle(pilot)
        highlight(pilot.app, "samples.png")
        await pilot.press("enter")
        await settle(pilot)
        assert "▀▀▀▀▀▀" in screen_text(pilot.app)  # type: ignore[arg-type]
        (run / "exported_models/samples.png").write_bytes(b"no picture")
        await pilot.press("escape", "enter")
        await settle(pilot)
        assert "cannot be shown" in screen_text(pilot.app)  # type: ignore[arg-type]

    drive(steps)


def test_the_log_is_filtered() -> None:
    run = make_run("mine", "interrupted")

    async def steps(pilot: Pilot[int]) -> None:
        pilot.app.open_run(run)  # type: ignore[attr-defined]
        await settle(pilot)
        await pilot.press("slash", *"decod")
        await settle(pilot)
        text = screen_text(pilot.app)  # type: ignore[arg-type]
        assert "qat-decoders: complete" in text
        assert "qat-diffusion: complete" not in text
        await pilot.press("enter")
        await settle(pilot)
        assert isinstance(pilot.app.screen, ProgressScreen)

    drive(steps)


def test_new_lines_and_states_come_in_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "POLL_S", 0.02)
    run = make_run("mine", "running")
    alive(run)

    async def steps(pilot: Pilot[int]) -> None:
        pilot.app.open_run(run)  # type: ignore[attr-defined]
        await settle(pilot)
        with open(run / "run.log", "a") as log:
            log.write("2026-01-01T11:00:00Z something new\n")
        await until(pilot, lambda: "11:00:00 something new" in screen_text(pilot.app))  # type: ignore[arg-type]
        (run / "owner.json").unlink()  # it dies
        await until(pilot, lambda: "crashed" in screen_text(pilot.app))  # type: ignore[arg-type]
        (run / "state.json").write_text("{")  # its state is damaged
        await until(pilot, lambda: "is not a state file" in screen_text(pilot.app))  # type: ignore[arg-type]
        run.rename("away")  # its folder vanishes
        await until(pilot, lambda: "holds no run" in screen_text(pilot.app))  # type: ignore[arg-type]
        Path("away").rename(run)
        make_state = make_run("other", "interrupted")
        (make_state / "state.json").rename(run / "state.json")
        await until(pilot, lambda: "interrupted" in screen_text(pilot.app))  # type: ignore[arg-type]

    drive(steps)


def test_a_run_that_completes_before_our_eyes_opens_its_checklist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "POLL_S", 0.02)
    run = make_run("mine", "running")
    alive(run)

    async def steps(pilot: Pilot[int]) -> None:
        pilot.app.open_run(run)  # type: ignore[attr-defined]
        await settle(pilot, 0.1)
        done = make_run("done")
        (done / "exported_models").rename(run / "exported")
        (done / "state.json").rename(run / "state.json")
        (run / "owner.json").unlink()
        await until(pilot, lambda: isinstance(pilot.app.screen, ChecklistScreen))

    drive(steps)


@pytest.mark.parametrize(("keys", "now"), [(["enter"], False), (["tab", "enter"], True)])
def test_s_stops_after_asking(keys: list[str], now: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[tuple[Path, bool]] = []

    def stop(run: Path, now: bool = False, timeout: float = 0.0, tell: Any = print) -> bool:
        stopped.append((run, now))
        return True

    monkeypatch.setattr(progress, "stop_run", stop)
    run = make_run("mine", "running")
    alive(run)

    async def steps(pilot: Pilot[int]) -> None:
        pilot.app.open_run(run)  # type: ignore[attr-defined]
        await settle(pilot)
        await pilot.press("s", "escape")
        await settle(pilot)
        assert not stopped
        await pilot.press("s", *keys)
        await until(pilot, lambda: bool(stopped))

    drive(steps)
    assert stopped == [(run, now)]


def test_r_resumes_a_run_that_stopped(started: list[tuple[list[str], Path]]) -> None:
    run = make_run("mine", "failed", folder=Path("elsewhere"))

    async def steps(pilot: Pilot[int]) -> None:
        pilot.app.open_run(run)  # type: ignore[attr-defined]
        await settle(pilot)
        assert "out of memory" in screen_text(pilot.app)  # type: ignore[arg-type]
        await pilot.press("r")
        await until(pilot, lambda: bool(started))

    drive(steps)
    assert started == [(["resume", str(run.absolute())], run)]


def test_a_job_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(arguments: Sequence[str], run: Path, wait: float = 0.0) -> Detached:
        return Detached(1, 3, False, "noise\nerror: too little disk space: 1 GB\n  make room\n")

    monkeypatch.setattr(progress, "start_detached", start)
    run = make_run("mine", "interrupted")

    async def steps(pilot: Pilot[int]) -> None:
        pilot.app.open_run(run)  # type: ignore[attr-defined]
        await settle(pilot)
        await pilot.press("r")
        await until(pilot, lambda: "too little disk space" in messages(pilot.app))  # type: ignore[arg-type]
        assert "noise" not in messages(pilot.app)  # type: ignore[arg-type]

    drive(steps)


def test_a_folder_that_cannot_be_written_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("mine", "interrupted")

    def refuse(arguments: Sequence[str], folder: Path, wait: float = 0.0) -> Detached:
        Path("file").touch()
        return detach.start_detached(arguments, Path("file/run"))

    monkeypatch.setattr(progress, "start_detached", refuse)

    async def steps(pilot: Pilot[int]) -> None:
        pilot.app.open_run(run)  # type: ignore[attr-defined]
        await settle(pilot)
        await pilot.press("r")
        await until(pilot, lambda: "cannot be written" in messages(pilot.app))  # type: ignore[arg-type]

    drive(steps)


# The checklist


def highlight(app: Any, wanted: str) -> None:
    options = app.screen.query_one(OptionList)
    options.highlighted = next(i for i, o in enumerate(options.options) if o.id and wanted in o.id)


def test_a_failed_mark_opens_its_cause_and_apply_fixes_it(started: list[tuple[list[str], Path]]) -> None:
    run = make_run("smoke", failed=("int8_fidelity",))
    Path("ubq.toml").write_text('extends = "smoke" # mine\n')

    async def steps(pilot: Pilot[int]) -> None:
        pilot.app.push_screen(ChecklistScreen(run))
        await settle(pilot)
        text = " ".join(screen_text(pilot.app).split())  # type: ignore[arg-type]
        assert "1 of 11 success marks failed" in text
        assert "✗ FAILED" in text
        assert "outliers widen the activation ranges" in text  # the failed one stands first
        await pilot.press("enter")
        await settle(pilot)
        assert isinstance(pilot.app.screen, Ask)
        assert 'quant.observer = "mse"' in screen_text(pilot.app)  # type: ignore[arg-type]
        await pilot.press("enter")
        await until(pilot, lambda: bool(started))
        assert isinstance(pilot.app.screen, ProgressScreen)

    drive(steps)
    assert started == [(["resume", str(run.absolute()), "--yes", "--set", "quant.observer=mse"], run)]
    assert tomllib.loads(Path("ubq.toml").read_text()) == {"extends": "smoke", "quant": {"observer": "mse"}}
    assert "# mine" in Path("ubq.toml").read_text()


def test_what_apply_starts_takes_up_the_value_and_keeps_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line that apply starts, read as ``ubq resume`` reads it."""
    from ubq import cli
    from ubq.jobs import run as runner
    from ubq.jobs.frozen import load_frozen

    taken: list[tuple[RunPaths, dict[str, Any]]] = []

    def resume_run(paths: RunPaths, **options: Any) -> int:
        taken.append((paths, options))
        return 0

    monkeypatch.setattr(runner, "resume_run", resume_run)
    run = make_run("smoke", failed=("int8_fidelity",))
    assert cli.main(resume_arguments(run, {"quant.observer": "mse"})) == 0
    ((paths, options),) = taken
    assert paths.root == run.absolute()
    assert options["selection"].yes  # nobody is there to answer
    before = load_frozen(paths)
    after = load_frozen(paths, options["overrides"])
    assert after == before.model_copy(update={"quant": before.quant.model_copy(update={"observer": "mse"})})


def test_a_mark_without_a_fix_to_set_offers_no_key_for_it() -> None:
    run = make_run("smoke", failed=("generation",))

    async def steps(pilot: Pilot[int]) -> None:
        pilot.app.push_screen(ChecklistScreen(run))
        await settle(pilot)
        footer = screen_text(pilot.app).splitlines()[-1]  # type: ignore[arg-type]
        assert "apply" not in footer
        assert "y copy" in footer
        await pilot.press("a")
        await settle(pilot)
        assert isinstance(pilot.app.screen, ChecklistScreen)

    drive(steps)


def test_figures_keep_their_words_after_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("smoke", failed=("quantised_modules",))
    found = Check(id="marks.quantised_modules", status="failed", figure="0.4069, wanted 0.3", fix="mend it")

    async def ubq_json(*arguments: str, timeout: float) -> dict[str, Any]:
        return {"checks": [found.as_dict()]}

    monkeypatch.setattr(checklist, "ubq_json", ubq_json)

    async def steps(pilot: Pilot[int]) -> None:
        pilot.app.push_screen(ChecklistScreen(run))
        await settle(pilot)
        await pilot.press("d")
        await settle(pilot, 0.1)
        text = screen_text(pilot.app)  # type: ignore[arg-type]
        assert "40.7 %, wanted > 30 %" in text
        assert "fix: mend it" in text

    drive(steps, size=(60, 20))


def test_out_of_memory_offers_smaller_parts(started: list[tuple[list[str], Path]]) -> None:
    run = make_run("smoke", "failed")

    async def steps(pilot: Pilot[int]) -> None:
        pilot.app.push_screen(ChecklistScreen(run))
        await settle(pilot)
        await pilot.press("a", "enter")
        await until(pilot, lambda: bool(started))

    drive(steps)
    assert started[0][0][-2:] == ["--set", "train.diffusion.accumulate=2"]


def test_what_the_checks_before_the_start_refused_is_fixed(started: list[tuple[list[str], Path]]) -> None:
    run = make_run("smoke", "interrupted")
    state = json.loads((run / "state.json").read_text())
    check = Check(id="memory", status="failed", figure="9 GB needed", fix="less", apply={"qat.decoders.accumulate": 4})
    state["preflight"] = [Check(id="disk", status="ok", figure="enough").as_dict(), check.as_dict()]
    (run / "state.json").write_text(json.dumps(state))

    async def steps(pilot: Pilot[int]) -> None:
        pilot.app.push_screen(ChecklistScreen(run))
        await settle(pilot)
        assert "enough" not in screen_text(pilot.app)  # type: ignore[arg-type]
        highlight(pilot.app, "preflight.memory")
        await pilot.press("a", "enter")
        await until(pilot, lambda: bool(started))

    drive(steps)
    assert started[0][0][-2:] == ["--set", "qat.decoders.accumulate=4"]


def test_files_and_commands_are_listed_and_copied() -> None:
    run = make_run("smoke")

    async def steps(pilot: Pilot[int]) -> None:
        pilot.app.push_screen(ChecklistScreen(run))
        await settle(pilot)
        text = screen_text(pilot.app)  # type: ignore[arg-type]
        assert "all 11 success marks passed" in text
        assert "samples.png  1 kB" in text
        highlight(pilot.app, "next:ubq deploy")
        await pilot.press("y")
        await settle(pilot)
        assert pilot.app.clipboard == "ubq deploy pi@raspberrypi.local:ubq smoke --smoke"
        highlight(pilot.app, "next:scp")
        await pilot.press("y")
        await settle(pilot)

    app = drive(steps, size=(120, 40))
    assert app.clipboard.startswith("scp runs/smoke/exported_models/smoke.pt")


def test_check_all_shows_what_ubq_doctor_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("smoke")
    found = Check(id="environment.disk", status="failed", figure="0 GB free", why="w", fix="make room")

    async def ubq_json(*arguments: str, timeout: float) -> dict[str, Any]:
        assert arguments == ("doctor", str(run.absolute()), "--json")
        return {"checks": [found.as_dict()]}

    monkeypatch.setattr(checklist, "ubq_json", ubq_json)

    async def steps(pilot: Pilot[int]) -> None:
        pilot.app.push_screen(ChecklistScreen(run))
        await settle(pilot)
        await pilot.press("d")
        await until(pilot, lambda: "disk space: 0 GB free" in screen_text(pilot.app))  # type: ignore[arg-type]

    drive(steps)


def test_a_report_is_shown_though_the_configuration_cannot_be_read() -> None:
    run = make_run("smoke", failed=("diversity",))
    (run / "config.toml").write_text("from_another_time = 1\n")

    async def steps(pilot: Pilot[int]) -> None:
        pilot.app.push_screen(ChecklistScreen(run))
        await settle(pilot)
        text = screen_text(pilot.app)  # type: ignore[arg-type]
        assert "1 of 11 success marks failed" in text
        assert "from_another_time" in text

    drive(steps, size=(80, 40))


# Everywhere


def test_ctrl_q_asks_where_answers_would_be_lost_and_names_the_jobs_that_go_on(probe: list[tuple[str, str]]) -> None:
    alive(make_run("busy", "running"))
    make_run("done")
    make_run("stopped", "interrupted")

    async def steps(pilot: Pilot[int]) -> None:
        await open_wizard(pilot)
        await answer(pilot, "data.synth_samples", "48")
        await pilot.press("ctrl+q")
        await settle(pilot)
        text = screen_text(pilot.app)  # type: ignore[arg-type]
        assert "not saved yet" in text
        assert "busy goes on without this program" in text
        question = text[text.index("Leave ubq") :].partition("stay")[0]
        assert not re.search(r"done|stopped", question)  # the others do not go on
        await pilot.press("enter")
        await settle(pilot)
        assert isinstance(pilot.app.screen, WizardScreen)
        await pilot.press("ctrl+q", "down", "enter")
        await settle(pilot)

    assert drive(steps).return_value == 0


def test_the_theme_chosen_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "config/ubq/interface.toml"
    file.parent.mkdir(parents=True)
    file.write_text('# mine\nlanguage = "en"\n')

    async def steps(pilot: Pilot[int]) -> None:
        assert isinstance(pilot.app, UbqApp)
        pilot.app.use_theme("light")

    drive(steps)
    assert file.read_text() == '# mine\nlanguage = "en"\ntheme = "light"\n'


def test_ctrl_q_leaves_with_0_from_anywhere(probe: list[tuple[str, str]]) -> None:
    run = make_run("mine", "running")
    alive(run)

    async def steps(pilot: Pilot[int]) -> None:
        pilot.app.open_run(run)  # type: ignore[attr-defined]
        await settle(pilot)
        await pilot.press("s")  # even from a question
        await pilot.press("ctrl+q")
        await settle(pilot)

    assert drive(steps).return_value == 0
    assert this_process().pid == json.loads((run / "owner.json").read_text())["pid"]  # and the job was left alone


def test_the_palette_runs_what_the_keys_do() -> None:
    run = make_run("mine", "interrupted")

    async def steps(pilot: Pilot[int]) -> None:
        pilot.app.open_run(run)  # type: ignore[attr-defined]
        await settle(pilot)
        await pilot.press("f2", *"checklist")
        await until(pilot, lambda: "checklist" in screen_text(pilot.app))  # type: ignore[arg-type]
        await settle(pilot, 0.3)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChecklistScreen))

    drive(steps)


def test_a_palette_that_finds_nothing_says_so_in_the_readers_language() -> None:
    i18n.set_language("zh_CN")

    async def steps(pilot: Pilot[int]) -> None:
        await pilot.press("f2", *"xqzxqz")
        await until(pilot, lambda: "没有找到" in screen_text(pilot.app))  # type: ignore[arg-type]
        assert "No matches" not in screen_text(pilot.app)  # type: ignore[arg-type]

    try:
        drive(steps)
    finally:
        i18n.set_language(None)


def test_a_number_is_typed_anew(probe: list[tuple[str, str]]) -> None:
    async def steps(pilot: Pilot[int]) -> None:
        screen = await open_wizard(pilot)
        await screen.go_to("data.synth_samples")
        await settle(pilot)
        await pilot.press(*"1024", "tab")
        await settle(pilot)
        assert screen.draft.value("data.synth_samples") == 1024

    drive(steps)


def test_enter_goes_to_the_field_that_the_answer_brings_up(probe: list[tuple[str, str]]) -> None:
    Path("maps").mkdir()

    async def steps(pilot: Pilot[int]) -> None:
        screen = await open_wizard(pilot)
        await screen.go_to("data.train_velocity")
        await settle(pilot)
        await pilot.press(*"maps", "enter")
        await settle(pilot)
        field = focused_field(screen.focused)
        assert field is not None
        assert field.name_of_key == "data.train_seismic"

    drive(steps)


def test_the_disk_stands_beside_the_memory(probe: list[tuple[str, str]]) -> None:
    async def steps(pilot: Pilot[int]) -> None:
        screen = await open_wizard(pilot)
        await screen.go_to("qat.epochs")
        await until(pilot, lambda: "the run writes up to 300 MB" in screen_text(pilot.app))  # type: ignore[arg-type]

    drive(steps, size=(120, 40))


def test_keys_are_bound_anew_by_id(probe: list[tuple[str, str]]) -> None:
    async def steps(pilot: Pilot[int]) -> None:
        screen = await open_wizard(pilot)
        await pilot.press("ctrl+g")
        await settle(pilot)
        assert screen.step.id == "data"
        await pilot.press("f8")
        await settle(pilot)
        assert screen.step.id == "checkpoint"
        assert "f8 next" in screen_text(pilot.app)  # type: ignore[arg-type]

    drive(steps, keys={"wizard.next": "f8"})


@pytest.mark.parametrize("size", [(60, 20), (80, 24)])
def test_every_field_can_be_reached_and_seen_by_keys_alone(size: tuple[int, int], probe: list[tuple[str, str]]) -> None:
    async def steps(pilot: Pilot[int]) -> None:
        screen = await open_wizard(pilot)
        for name in ("data", "training"):
            await step(pilot, name)
            wanted = {f.name_of_key for f in screen.page.fields()}
            seen = set()
            for _press in range(len(wanted) + 6):
                field = wizard.focused_field(screen.focused)
                if field is not None:
                    control = screen.focused
                    assert control is not None

                    def in_sight(control: Widget = control) -> bool:
                        return control.region.height > 0 and screen.page.region.contains_region(control.region)

                    await until(pilot, in_sight)
                    seen.add(field.name_of_key)
                screen.focus_next()  # what Tab does, without waiting for every widget after each
                await pilot.pause()
            assert seen == wanted
            help_pane = screen.query_one("#help", Static)
            assert help_pane.region.height > 0

    drive(steps, size=size)


def test_arrows_go_from_field_to_field(probe: list[tuple[str, str]]) -> None:
    async def steps(pilot: Pilot[int]) -> None:
        screen = await open_wizard(pilot)
        fields = [f.name_of_key for f in screen.page.fields()]
        seen = []
        for _press in fields:
            field = wizard.focused_field(screen.focused)
            assert field is not None
            seen.append(field.name_of_key)
            await pilot.press("down")
        assert seen == fields
        await pilot.press("up")
        field = wizard.focused_field(screen.focused)
        assert field is not None
        assert field.name_of_key == fields[-1]

    drive(steps)


def test_stages_of_the_fixtures_are_those_of_the_pipeline() -> None:
    from ubq.stages import PIPELINE

    assert set(STAGES) <= {s.name for s in PIPELINE}


@pytest.mark.parametrize("key", ["pagedown", "pageup", "ctrl+d", "ctrl+u"])
def test_a_list_without_room_for_a_row_stands_any_page_key(key: str) -> None:
    make_run("done")

    async def steps(pilot: Pilot[int]) -> None:
        menu = pilot.app.screen.query_one(Menu)
        menu.styles.height = 0
        await settle(pilot)
        menu.focus()
        await pilot.press(key)
        await settle(pilot)
        assert pilot.app.is_running

    drive(steps)
