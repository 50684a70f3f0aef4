"""What the probe and the look into a checkpoint answered, as the wizard's live pane says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from ubq.config.rendering import values_of
from ubq.i18n import gettext as _
from ubq.jobs.checks.check import check_name
from ubq.tui import cost, questions
from ubq.tui.draft import Draft
from ubq.tui.words import check_word

if TYPE_CHECKING:
    from ubq.config.schema import Config


def check_text(check: Mapping[str, Any], named: bool = False) -> Text:
    """A check in one or two lines; ``named`` with what it looked at."""
    text = Text()
    wrong = check["status"] != "ok"
    text.append(f"{check_word(check['status'])}  ", style="bold" if wrong else "")
    figure = str(check["figure"])
    text.append(_("{what}: {figure}").format(what=check_name(check["id"]), figure=figure) if named else figure)
    if wrong and check["fix"]:
        text.append(f"\n   {check['fix']}")
    return text


def checks_text(checks: Sequence[Mapping[str, Any]]) -> Text:
    """Checks, one below the other."""
    return Text("\n").join(check_text(check) for check in checks)


def key_of(check: Mapping[str, Any], config: Config) -> str:
    """The key whose answer fixes what a check found; empty where none of the wizard's does."""
    values = values_of(config)
    inputs = questions.INPUTS if check["id"].split(".")[0] in ("data", "checkpoint") else ()
    named = [n for n in sorted(inputs) if (value := values[tuple(n.split("."))]) and str(value) in check["figure"]]
    if named:
        return max(named, key=lambda n: len(str(values[tuple(n.split("."))])))
    asked = {q.key.name for step in questions.steps() for q in step.questions}
    return next((key for key in check.get("apply", {}) if key in asked), _KEY_OF.get(check["id"], ""))


_KEY_OF = {
    "checkpoint.decoder_path": "pretrained.decoder_path",
    "checkpoint.normalization": "data.normalization",
    "checkpoint.path": "pretrained.path",
    "checkpoint.trained": "pretrained.path",
    "data": "data.train_velocity",
    "data.content": "data.train_velocity",
    "data.files": "data.train_velocity",
    "data.readable": "data.train_velocity",
    "device": "device",
    "disk": "run.dir",
    "memory": "qat.batch_size",
    "physics": "data.train_velocity",
}


def plan_text(answer: Mapping[str, Any], draft: Draft) -> Text:
    """Whether the run can start, and what a start would do with its folder."""
    if "error" in answer:
        return Text()
    wrong = [c for c in answer["checks"] if c["status"] != "ok"]
    if any(c["status"] == "failed" for c in wrong):
        text = Text(_("It cannot start yet: Enter on a failed check goes to the field that fixes it."))
    elif wrong:
        text = checks_text(wrong)
    else:
        text = Text(_("All checks passed: Start begins the run."))
    text.append("\n" + _("run {run} in {folder}").format(run=draft.run_folder.name, folder=draft.run_folder.parent))
    if answer["exists"]:
        text.append("\n" + _("It is there already; what is not up to date runs:"))
        for item in answer["plan"]:
            text.append(f"\n  {item['name']}: {item['action']}")
    return text


def estimate_text(answer: Mapping[str, Any], threads: int) -> Text:
    """Memory of each stage and the disk beside what is there, size on the Pi, time."""
    from ubq.cpu import cores

    text = Text()
    available = answer["available"]
    worst = max(answer["memory"].values(), default=0)
    word = check_word("ok" if worst <= available else "warning")
    text.append(
        _("{word}: training needs up to {worst}, {available} are available").format(
            word=word, worst=cost.bytes_text(worst), available=cost.bytes_text(available)
        )
    )
    needed, free = answer["disk"], answer["free"]
    text.append("\n" + check_word("ok" if needed <= free else "warning") + ": ")
    words = _("the run writes up to {needed}, {free} are free")
    text.append(words.format(needed=cost.bytes_text(needed), free=cost.bytes_text(free)))
    size = cost.bytes_text(answer["file_bytes"])
    time = cost.time_text(answer, threads or cores(), on_gpu=answer.get("on_gpu", False))
    text.append("\n" + _("file on the Pi: {size}; {time}").format(size=size, time=time))
    text.append("\n" + ", ".join(f"{stage} {cost.bytes_text(needed)}" for stage, needed in answer["memory"].items()))
    return text


def checkpoint_text(facts: Mapping[str, Any]) -> Text:
    """What a checkpoint holds."""
    if "error" in facts:
        return Text(f"! {facts['error']} {facts['fix']}".rstrip())
    text = Text()
    if facts["problem"]:
        text.append(f"! {facts['problem']}\n", style="bold")
    sizes = facts["sizes"]
    text.append(
        _("{container}, variant {variant}, ({dim}; {mults})").format(
            container=facts["container"],
            variant=facts["variant"],
            dim=sizes.get("encoder_dim"),
            mults=", ".join(map(str, sizes.get("dim_mults", ()))),
        )
    )
    total = facts["parameters"]["total"]
    text.append(
        "\n" + _("{count:.1f} M parameters, {weights} weights").format(count=total / 1e6, weights=facts["weights"])
    )
    text.append("\n" + _("ranges of {name}").format(name=facts["normalization"]))
    if facts["absent"]:
        text.append("\n! " + _("absent: {parts}").format(parts=", ".join(facts["absent"])))
    for note in facts["notes"]:
        text.append(f"\n{note}")
    return text
