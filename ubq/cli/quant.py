"""``ubq quant``: what runs in int8, and what quantising each layer costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ubq.cli.completion import run_names
from ubq.cli.options import HERE, RunsDir
from ubq.cli.output import say, say_json
from ubq.config.runs import expanded, run_command
from ubq.errors import UsageError
from ubq.i18n import gettext as _
from ubq.runtime.facts import is_torchscript

if TYPE_CHECKING:
    from ubq.quant.analysis import Coverage
    from ubq.quant.sensitivity import Sensitivity
    from ubq.stages.paths import RunPaths

app = typer.Typer(help="What runs in int8, and what it costs.", no_args_is_help=True, add_completion=False)

Target = Annotated[
    str,
    typer.Argument(
        autocompletion=run_names, metavar="CHECKPOINT|RUN|FILE", help="QAT checkpoint, run, or exported .pt."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Full = Annotated[bool, typer.Option("--full", help="Of a run: measure what quantising every single layer costs.")]
Backend = Annotated[str, typer.Option("--backend", help="Engine to load an exported file under; empty: the default.")]


@app.callback()
def _group() -> None:
    """Keeps ``analyze`` a subcommand."""


@app.command()
def analyze(
    target: Target,
    runs_dir: RunsDir = HERE,
    backend: Backend = "",
    full: Full = False,
    as_json: Json = False,
) -> None:
    """Count what is int8: in a model, and read off an exported file's own graph.

    Of a run, both; of a complete QAT checkpoint, the model and the graph it would export; of an exported
    file, its graph; of a float checkpoint, what the default quantisation would make of it. The QAT stages
    of a run estimate what quantising each layer costs and measure the worst; --full measures them all.
    """
    document = analysis_of(target, runs_dir, backend, full)
    if as_json:
        say_json(document)
    else:
        from ubq.quant.analysis import as_text

        say(as_text(document), end="")


def analysis_of(target: str, runs_dir: Path, backend: str = "", full: bool = False) -> dict[str, Any]:
    """The document of ``ubq.quant.analysis.as_json`` for a checkpoint, a run or a file.

    Args:
        target: path, or name of a run.
        runs_dir: folder of the runs.
        backend: engine of an exported file; empty: its own or the default.
        full: of a run, measure every layer's cost.

    Raises:
        UsageError: there is no such thing, or it cannot be read.
    """
    from ubq.model.parts import DEPLOYED
    from ubq.quant.analysis import as_json, count_model
    from ubq.quant.checkpoint import is_qat, load_qat

    checkpoint, exported = _files(target, runs_dir)
    if full and (Path(target).is_file() or checkpoint is None):
        raise UsageError(
            _("--full measures layers on the held-out latents of a run with a QAT checkpoint"),
            _("ubq quant analyze RUN --full"),
        )
    model = recipe = None
    graph: Coverage | None = None
    costs: list[Sensitivity] = []
    if checkpoint is not None and not is_qat(checkpoint):
        return _float_checkpoint(checkpoint)
    if checkpoint is not None:
        loaded = load_qat(checkpoint)
        recipe = loaded.recipe
        backend = backend or recipe.quant.backend
        model = count_model(loaded.generator, recipe.quant)
        if full:
            from ubq.stages.layer_costs import layer_costs

            costs = layer_costs(_run_folder(target, runs_dir), loaded, worst=None)
        if exported is None and set(loaded.parts) == set(DEPLOYED):
            graph = _exported_graph(loaded.generator, recipe.quant.backend, recipe.quant.time_tables)
    if exported is not None:
        graph = _file_graph(exported, backend)
    return as_json(model, graph, recipe, costs)


def _files(target: str, runs_dir: Path) -> tuple[Path | None, Path | None]:
    """Checkpoint and exported file that a command line means."""
    path = Path(expanded(target))
    if path.is_file():
        return (None, path) if is_torchscript(path) else (path, None)
    from ubq.stages.qat_decoders import FINAL as FINAL_DECODERS
    from ubq.stages.qat_diffusion import FINAL as FINAL_MODEL

    paths = _run_folder(target, runs_dir)
    checkpoints = [
        paths.checkpoints("qat-diffusion") / FINAL_MODEL,
        paths.checkpoints("qat-decoders") / FINAL_DECODERS,
    ]
    checkpoint = next((c for c in checkpoints if c.is_file()), None)
    exported = next((f for f in sorted(paths.exported.glob("*.pt")) if is_torchscript(f)), None)
    if checkpoint is None and exported is None:
        raise UsageError(
            _("run {run} has no quantised model yet").format(run=paths.root.name),
            run_command("resume", paths.root),
        )
    return checkpoint, exported


def _run_folder(target: str, runs_dir: Path) -> RunPaths:
    from ubq.stages.paths import RunPaths

    path = Path(expanded(target))
    folder = path if path.is_dir() else runs_dir / target
    if not folder.is_dir():
        raise UsageError(
            _("{target} is neither a file nor a run in {folder}").format(target=target, folder=runs_dir),
            _("list the runs with: ubq runs"),
        )
    return RunPaths(folder)


def _file_graph(path: Path, backend: str) -> Coverage:
    import torch

    from ubq.export.lower.torchscript import engine, load_torchscript
    from ubq.export.readback.torchscript import count_file

    backend = backend or torch.backends.quantized.engine
    with engine(backend):
        return count_file(load_torchscript(path, backend))


def _exported_graph(generator: Any, backend: str, time_tables: bool) -> Coverage | None:
    """The graph that exporting a calibrated generator would give; None before it was calibrated."""
    import tempfile

    from ubq.export.lower.torchscript import write_torchscript
    from ubq.quant.phases import quant_layers

    if any(int(o.batches) == 0 for layer in quant_layers(generator).values() for o in layer.observers()):
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.pt"
        write_torchscript(generator, path, backend, time_tables)
        return _file_graph(path, backend)


def _float_checkpoint(path: Path) -> dict[str, Any]:
    from ubq.config.schema import DataConfig, ExportConfig, QuantConfig
    from ubq.data.normalization import for_config
    from ubq.model.parts import DECODERS
    from ubq.quant.analysis import as_json, count_model
    from ubq.quant.checkpoint import skeleton
    from ubq.quant.generator import Recipe
    from ubq.upstream.importer import read_checkpoint

    imported = read_checkpoint(path, need=("unet", *DECODERS))
    ranges = for_config(DataConfig(normalization=imported.suggested_normalization))
    recipe = Recipe(imported.sizes, ranges, QuantConfig(), ExportConfig())
    return as_json(count_model(skeleton(recipe), recipe.quant), None, recipe)
