"""The wizard's questions as plain prompts, for terminals that cannot draw and for screen readers."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from ubq.config.keys import toml_value
from ubq.config.runs import run_command
from ubq.errors import EXIT_OK, UsageError
from ubq.i18n import gettext as _
from ubq.plaintext import printable
from ubq.tui import questions
from ubq.tui.draft import Draft
from ubq.tui.questions import Question


def ask_all(file: Path, runs_dir: Path, preset: str) -> int:
    """Ask every question of the wizard; an empty answer keeps the value. Then save, and start if wanted.

    Returns:
        The exit code.

    Raises:
        UsageError: the input ends before the last answer.
    """
    from ubq.config import presets

    if not preset and not file.is_file():
        for p in presets.listing():
            typer.echo(f"{p.name:<20} {p.description}")
        preset = _choose(_("preset"), "demo", presets.names())
    draft = Draft(file, preset)
    if preset and (old := draft.left_over()):
        lines = "".join(f"\n  {name} = {toml_value(value)}" for name, value in old.items())
        text = _("{file} holds values of an earlier configuration:\n{values}\nPut them over {preset}?")
        typer.echo(printable(text.format(file=file, values=lines.strip("\n"), preset=preset)))
        if _choose(_("keep these values"), _("yes"), [_("yes"), _("no")]) == _("no"):
            draft = Draft(file, preset, anew=True)
    typer.echo(_("Enter keeps the value in brackets; ? explains."))
    for step in questions.steps():
        typer.echo(f"\n{step.title}: {step.about}")
        for question in step.questions:
            if question.shown_if(draft.loaded.config):
                _ask(draft, question)
    draft.propose_run(runs_dir)
    review = questions.review()
    typer.echo(f"\n{review.title}: {review.about}")
    for question in review.questions:
        _ask(draft, question)
    typer.echo("\n" + printable(draft.summary))
    typer.echo(_("the same as a command: {command}").format(command=draft.command))
    if _choose(_("write {file}?").format(file=file), _("yes"), [_("yes"), _("no")]) == _("no"):
        return EXIT_OK
    draft.save()
    typer.echo(_("wrote {file}; start it with: ubq run").format(file=file))
    if _choose(_("start it now, in the background?"), _("yes"), [_("yes"), _("no")]) == _("no"):
        return EXIT_OK
    from ubq.jobs.detach import start_detached

    job = start_detached(draft.start_arguments(), draft.run_folder)
    if job.exit_code:
        typer.echo(printable(job.output.rstrip()), err=True)
        return job.exit_code
    typer.echo(_("it runs; follow it with: {command}").format(command=run_command("attach", draft.run_folder)))
    return EXIT_OK


def _ask(draft: Draft, question: Question) -> None:
    """One question, until its answer holds."""
    name = question.key.name
    while True:
        text = _line(f"{question.label} [{questions.shown(draft.value(name))}]")
        if text == "?":
            typer.echo(f"  {name}: {question.help}\n  " + _("allowed: {allowed}").format(allowed=question.key.allowed))
            continue
        if text == '""':
            text = ""
        elif not text:
            return
        before = dict(draft.changes)
        problem = draft.answer(name, text)
        if not draft.mistake(name):
            if problem:
                typer.echo(f"  ! {problem}")
            return
        typer.echo(printable(f"  ! {problem}"))
        draft.changes = before
        draft.judge()


def _choose(question: str, default: str, allowed: list[str]) -> str:
    while True:
        text = _line(f"{question} [{default}]") or default
        if text in allowed:
            return text
        typer.echo("  ! " + _("one of {names}").format(names=", ".join(allowed)))


def _line(prompt: str) -> str:
    typer.echo(f"{prompt}: ", nl=False)
    line = sys.stdin.readline()
    if not line:
        raise UsageError(_("the input ended before the last answer"), _("without a terminal: ubq run --preset NAME"))
    return line.strip()
