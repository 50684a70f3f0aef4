"""What the interface leaves to other processes, and what it never does itself."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from tiny import calibrated, tiny_model, tiny_recipe

from ubq import i18n
from ubq.config.load import load_config
from ubq.config.schema import QuantConfig
from ubq.errors import DataError
from ubq.export.lower.torchscript import write_torchscript
from ubq.interface import Interface, read_interface
from ubq.stages.estimate import file_bytes
from ubq.tui import cost
from ubq.tui.draft import Draft
from ubq.tui.lookup import _content, _data
from ubq.tui.processes import Lookup, ubq_json

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


def test_the_interface_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, ubq.tui.app, ubq.tui.wizard, ubq.tui.progress, ubq.tui.checklist, ubq.tui.prompts;"
        "print([m for m in ('torch', 'numpy', 'matplotlib', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_probe_answers_what_needs_torch() -> None:
    draft = Draft(Path("ubq.toml"), "smoke")

    async def ask() -> None:
        probe = Lookup()
        try:
            found = await probe.ask("data", "ubq.toml", draft.text)
            assert "24 curvefault-a-like pairs" in found["checks"][0]["figure"]
            found = await probe.ask("estimate", "ubq.toml", draft.text)
            facts = cost.preset_facts()["smoke"]
            # What the start screen shows is what is computed: python -m ubq.tui.lookup presets
            assert max(found["memory"].values()) == facts["memory_bytes"]
            assert {k: found[k] for k in ("file_bytes", "operations", "pairs")} == {
                k: facts[k] for k in ("file_bytes", "operations", "pairs")
            }
            found = await probe.ask("preflight", "ubq.toml", draft.text)
            assert {"data", "device", "disk", "memory"} <= {c["id"] for c in found["checks"]}
            assert not found["exists"]
            found = await probe.ask("data", "ubq.toml", "extends = 'nothing'")
            assert "a preset" in found["error"]
        finally:
            await probe.close()

    asyncio.run(ask())


@pytest.mark.parametrize("scheme", ["default", "aggressive"])
def test_the_size_on_the_pi_is_that_of_the_exported_file(scheme: Literal["default", "aggressive"]) -> None:
    quant = QuantConfig(scheme=scheme)
    generator = calibrated(tiny_model("paper"), tiny_recipe("paper", quant))
    file = Path("tiny.pt")
    write_torchscript(generator, file, quant.backend)
    assert file_bytes(generator, quant) == pytest.approx(file.stat().st_size, rel=0.05)


def test_the_live_check_of_data_counts_files_and_then_reads_every_sample() -> None:
    for side, first in (("train", 0), ("val", 1)):
        Path(side).mkdir()
        maps, gathers = np.full((3, 1, 70, 70), 2000.0, np.float32), np.ones((3, 5, 1000, 70), np.float32)
        maps[:, :, 35:] = 3000.0
        np.save(f"{side}/model{first}.npy", maps)
        np.save(f"{side}/data{first}.npy", gathers)
    folders = {f"data.{side}_{kind}": side for side in ("train", "val") for kind in ("velocity", "seismic")}
    loaded = load_config("smoke", folders, isolated=True)
    found = _data(loaded)
    assert found["bytes"] == 6 * 4 * (70 * 70 + 5 * 1000 * 70)
    figures = [c["figure"] for c in found["checks"]]
    assert figures[0] == "4 files, 9 MB; samples float32 (1, 70, 70), float32 (5, 1000, 70)"
    assert "3 training and 3 held-out pairs" in figures[1]
    assert _content(loaded)["checks"][0]["figure"].startswith("all samples read: 6 pairs in 4 files, 2000 to 3000 m/s")
    maps[1, 0, 3, 3] = np.nan
    np.save("val/model1.npy", maps)
    with pytest.raises(DataError, match=r"val/model1\.npy"):
        _content(loaded)


def test_a_question_given_up_ends_its_process_and_the_next_is_answered() -> None:
    draft = Draft(Path("ubq.toml"), "smoke")

    async def ask() -> None:
        probe = Lookup()
        try:
            found = await probe.ask("data", "ubq.toml", draft.text, timeout=0.0)
            assert "no answer after" in found["error"]
            task = asyncio.create_task(probe.ask("estimate", "ubq.toml", draft.text))
            await asyncio.sleep(0.2)
            assert probe._process is not None
            pid = probe._process.pid
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
            assert "checks" in await probe.ask("data", "ubq.toml", draft.text)
        finally:
            await probe.close()

    asyncio.run(ask())


def test_commands_answer_with_their_object_or_their_error() -> None:
    async def ask() -> None:
        assert (await ubq_json("runs", "--json", timeout=60))["runs"] == []
        found = await ubq_json("status", "nothing", "--json", timeout=60)
        assert found["error"].startswith("there is no run nothing")
        assert found["fix"]
        assert "no answer after" in (await ubq_json("runs", "--json", timeout=0.0))["error"]

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("text", "problem"),
    [("language = 3", "[keys]"), ("theme =", "interface.toml"), ("colour = 'x'", "[keys]"), ("keys = 'q'", "[keys]")],
)
def test_settings_that_cannot_be_used_are_named(text: str, problem: str) -> None:
    Path("interface.toml").write_text(text)
    assert problem in read_interface(Path("interface.toml")).problem


def test_settings_are_read_and_decide_the_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config" / "ubq" / "interface.toml"
    file.parent.mkdir(parents=True)
    file.write_text('language = "zh_CN"\ntheme = "light"\n[keys]\n"wizard.next" = "f8"\n')
    assert read_interface() == Interface("zh_CN", "light", {"wizard.next": "f8"})
    asked: list[list[str]] = []
    monkeypatch.setattr(
        i18n._gettext,
        "translation",
        lambda domain, folder, languages, fallback: asked.append(languages) or i18n._gettext.NullTranslations(),
    )
    try:
        i18n.set_language(None)
        i18n.set_language("en")
        monkeypatch.setenv("UBQ_LANG", "de")
        i18n.set_language(None)
    finally:
        monkeypatch.undo()
        i18n.set_language(None)
    assert [languages[0] for languages in asked] == ["zh_CN", "en", "de"]
