"""``ubq checkpoint``: look at a checkpoint before using it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ubq.cli.output import say, say_json
from ubq.errors import EXIT_USAGE, UsageError
from ubq.i18n import gettext as _

if TYPE_CHECKING:
    from ubq.upstream.importer import ImportedModel

app = typer.Typer(
    help="Checkpoints of upstream's code: look before you import.", no_args_is_help=True, add_completion=False
)


class Weights(StrEnum):
    """Which of two sets of weights."""

    ema = "ema"
    raw = "raw"


@app.callback()
def _group() -> None:
    """Checkpoints of upstream's code: look before you import."""


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Checkpoint of the paper's code or of the fork.")],
    decoder_checkpoint: Annotated[
        Path | None, typer.Option(help="Second checkpoint, whose decoders are used instead.")
    ] = None,
    weights: Annotated[Weights, typer.Option(help="Weights to count where the file holds both.")] = Weights.ema,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Show who wrote a checkpoint, its sizes, parameters, missing and left-over tensors, and its normalisation."""
    from ubq.upstream.importer import inspect_checkpoint

    result = inspect_checkpoint(file, weights.value, decoder_path=decoder_checkpoint)
    if as_json:
        say_json(result.to_dict())
    else:
        _print(result)
    if result.problem:
        raise typer.Exit(EXIT_USAGE)


@app.command()
def weights(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint with other things beside weights.")],
    output: Annotated[Path, typer.Option(help="New file for the weights alone.")],
) -> None:
    """Keep the weights of a checkpoint and nothing else; no code in it runs, and none of its classes is needed."""
    if output.exists():
        raise UsageError(_("{file} is there already").format(file=output), _("choose another name with --output"))
    import torch

    from ubq.durable import replacing
    from ubq.upstream.container import bare_weights

    tensors = bare_weights(file)
    with replacing(output) as temporary:
        torch.save(tensors, temporary)
    entries = {n: len(v) for n, v in tensors.items() if isinstance(v, dict)}
    shown = ", ".join(f"{name} ({count})" for name, count in entries.items())
    say(_("wrote {file}; tensors: {entries}").format(file=output, entries=shown))


def _print(result: ImportedModel) -> None:
    document = result.to_dict()
    say(
        _("{path}: {container} checkpoint, {weights} weights").format(
            path=result.path, container=result.container, weights=result.weights_used
        )
    )
    for part, count in document["parameters"].items():
        say(f"  {part:<20} {count:>15,}")
    if document["absent"]:
        say(_("absent: {parts}").format(parts=", ".join(document["absent"])))
    say(_("sizes:"))
    for key, value in document["sizes"].items():
        say(f"  {key:<20} {value}")
    say(_("normalisation: the ranges of {name}, unless you say otherwise").format(name=document["normalization"]))
    for note in result.notes:
        say(_("note: {note}").format(note=note))
    for title, names in ((_("missing"), result.missing), (_("left over"), result.left_over)):
        for name in names:
            say(f"{title}: {name}")
