"""``ubq export``: write the files for the Pi from a checkpoint, and recompute a file's weight hash."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ubq.cli.completion import run_names
from ubq.cli.options import HERE, RunsDir
from ubq.cli.output import say, say_json
from ubq.config.runs import command, expanded, run_command
from ubq.errors import CheckpointError, UsageError
from ubq.i18n import gettext as _

if TYPE_CHECKING:
    from ubq.quant.generator import Generator, Recipe

_CHECKPOINT = "checkpoint"


class _CheckpointOrCommand(TyperGroup):
    """``ubq export FILE`` is ``ubq export checkpoint FILE``: what is no command is a checkpoint."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = [a for a in args if not a.startswith("-")]
        if (
            args
            and not set(args) & {"--help", "-h"}
            and not (words and words[0] in self.commands and words[0] == args[0])
        ):
            args = [_CHECKPOINT, *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        source = next(p for p in self.commands[_CHECKPOINT].params if p.name == "source")
        return [*super().shell_complete(ctx, incomplete), *source.shell_complete(ctx, incomplete)]


app = typer.Typer(
    cls=_CheckpointOrCommand,
    no_args_is_help=True,
    add_completion=False,
    help="Write the files for the Pi: ubq export RUN --bundle. All options: ubq export checkpoint --help.",
)

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


@app.command(_CHECKPOINT)
def checkpoint(
    source: Annotated[
        str,
        typer.Argument(
            autocompletion=run_names,
            metavar="[CHECKPOINT|RUN]",
            help="final_qat_model.pt, a run, or a float checkpoint; default: the newest run.",
            show_default=False,
        ),
    ] = "",
    no_quantize: Annotated[
        bool, typer.Option("--no-quantize", help="Write the float model: reference and debugging.")
    ] = False,
    bundle: Annotated[
        bool, typer.Option("--bundle", help="Make the folder and the archive for the Pi; of a run what it exported.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; default: exported_models, of --bundle beside the model.")
    ] = None,
    solver: Annotated[str, typer.Option(help="ddpm, ddim or dpmpp2m; default: the checkpoint's.")] = "",
    steps: Annotated[int, typer.Option(min=0, help="Default sampling steps; 0: the checkpoint's.")] = 0,
    step_choices: Annotated[
        list[int] | None, typer.Option("--step-choice", min=1, help="A further step count to offer; may be repeated.")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", help="onnx or executorch too, beside torchscript; repeatable; default: as configured."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the files; default: the checkpoint's.")] = "",
    backend: Annotated[str, typer.Option(help="qnnpack, x86, fbgemm or onednn; default: the checkpoint's.")] = "",
    family: Annotated[str, typer.Option(help="OpenFWI data set it imitates; default: the checkpoint's.")] = "",
    normalization: Annotated[
        str, typer.Option(help="Of a float checkpoint: openfwi or fork; default: as its code base trains.")
    ] = "",
    decoder_checkpoint: Annotated[
        Path | None, typer.Option("--decoder-checkpoint", help="A float checkpoint to take the decoders from.")
    ] = None,
    weights: Annotated[str, typer.Option(help="Of a float checkpoint: ema or raw.")] = "ema",
    runs_dir: RunsDir = HERE,
    as_json: Json = False,
) -> None:
    """Write NAME.pt, further formats, NAME_info.txt, deployment_guide.md and manifest.json from a checkpoint.

    With --bundle it also makes NAME-bundle, a folder with everything that a Raspberry Pi needs, and NAME-bundle.tar.gz;
    of a run, or of a folder exported_models, from the files that are there unless other options ask for new ones.

    ubq export CHECKPOINT does the same. The file quantised is a QAT checkpoint or a run that has one; with
    --no-quantize it may also be a float checkpoint of UB-Diff.
    """
    wanted_formats = _formats(formats or [], no_quantize)
    asked_for_new = no_quantize or any((solver, steps, step_choices, name, backend, family, formats))
    exported = _exported_folder(source, runs_dir) if bundle and not asked_for_new else None
    if exported is not None:
        _bundle(exported, out, as_json)
        return
    path = _checkpoint_file(source, runs_dir, no_quantize)
    from ubq.data.families import FAMILIES
    from ubq.export.files import export_generator
    from ubq.quant.checkpoint import is_qat

    if family and family not in FAMILIES:
        raise UsageError(_("{name} is not an OpenFWI family").format(name=family), ", ".join(FAMILIES))
    changes = {"solver": solver, "steps": steps, "step_choices": tuple(step_choices or ())}
    changed = {key: value for key, value in changes.items() if value}
    run = _run_of(path)
    if is_qat(path):
        generator, recipe = _from_qat(path, changed, backend)
    elif no_quantize and run is not None and path.name in _FLOAT_FILES.values():
        generator, recipe = _from_float_run(run, changed, backend)
    elif no_quantize:
        generator, recipe = _from_float(path, changed, backend, normalization, weights, decoder_checkpoint, family)
    else:
        raise CheckpointError(
            _("{path} is not a QAT checkpoint, so there are no int8 weights to write").format(path=path),
            _("quantise it with: ubq run --pretrained-path {path}, or write the float model with --no-quantize").format(
                path=path
            ),
        )
    files = export_generator(
        generator,
        recipe,
        out or Path("exported_models"),
        name or recipe.export.name or (run.name if run else path.stem),
        family=family or (_family_of(run) if run else _DEFAULT_FAMILY),
        quantise=not no_quantize,
        formats=wanted_formats or recipe.export.formats,
    )
    if bundle:
        _bundle(files.manifest.parent, None, as_json)
        return
    if as_json:
        result = {
            "file": str(files.model),
            "manifest": str(files.manifest),
            "bytes": files.model.stat().st_size,
            "quantised": files.facts.quantised,
            "solver": files.facts.solver,
            "steps": files.facts.steps,
            "weights_sha256": files.weights_sha256,
            "others": [str(other) for other in files.others],
        }
        say_json(result)
        return
    say(
        _("{file}: {size:.1f} MB, {solver}, {steps} steps").format(
            file=files.model,
            size=files.model.stat().st_size / 1e6,
            solver=files.facts.solver,
            steps=files.facts.steps,
        )
    )
    for other in (*files.others, files.manifest):
        say(f"  {other}")


@app.command()
def digest(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An exported .pt file.")], as_json: Json = False
) -> None:
    """Recompute weights_sha256 from a file alone."""
    if not file.is_file():
        raise UsageError(_("{path} does not exist").format(path=file), _("give the .pt of exported_models"))
    from ubq.export.readback.digest import digest as digest_of

    sha256 = digest_of(file)
    if as_json:
        say_json({"file": str(file), "weights_sha256": sha256})
    else:
        say(sha256)


def _formats(formats: list[str], no_quantize: bool) -> tuple[str, ...]:
    """The formats asked for, TorchScript first; none for the configured ones."""
    from ubq.export.formats import OTHER_FORMATS, require_formats
    from ubq.export.runtimes import TORCHSCRIPT

    known = (TORCHSCRIPT.name, *OTHER_FORMATS)
    unknown = [name for name in formats if name not in known]
    if unknown:
        raise UsageError(_("--format {name}: no such format").format(name=unknown[0]), ", ".join(known))
    if set(formats) - {TORCHSCRIPT.name} and no_quantize:
        raise UsageError(_("the float model is written as TorchScript only"), _("leave --format or --no-quantize out"))
    require_formats(formats)
    return tuple(dict.fromkeys((TORCHSCRIPT.name, *formats))) if formats else ()


def _exported_folder(source: str, runs_dir: Path) -> Path | None:
    """The folder exported_models that a person means by its path or by a run; None where there is none."""
    from ubq.export.manifest import MANIFEST
    from ubq.jobs.status import find_run
    from ubq.stages.paths import RunPaths

    folder = Path(expanded(source))
    if folder.is_file() or source.endswith((".pt", ".pth")):
        return None
    if not (source and (folder / MANIFEST).is_file()):
        folder = RunPaths(find_run(source, runs_dir)).exported
    return folder if (folder / MANIFEST).is_file() else None


def _bundle(exported: Path, out: Path | None, as_json: bool) -> None:
    """Make the bundle of a folder exported_models, and its archive."""
    from ubq.export.bundle.folder import make_bundle, pack

    made = make_bundle(exported, out)
    archive = pack(made)
    names = [entry["name"] for entry in made.manifest["files"]]
    if as_json:
        result = {
            "folder": str(made.folder),
            "archive": str(archive),
            "bytes": archive.stat().st_size,
            "runtimes": [runtime.name for runtime in made.runtimes],
            "files": names,
        }
        say_json(result)
        return
    say(_("{archive}: {size:.1f} MB").format(archive=archive, size=archive.stat().st_size / 1e6))
    say(f"{made.folder}: {', '.join(names)}")
    deploy = command("ubq", "deploy", "pi@raspberrypi.local:ubq", str(made.folder))
    say(_("copy it to a Pi: {command}").format(command=deploy))


_DEFAULT_FAMILY = "curvefault-a"
"""As ``data.family``; a checkpoint that names none was trained by upstream, whose own default it is."""


def _family_of(run: Path) -> str:
    from ubq.jobs.frozen import load_frozen
    from ubq.stages.paths import RunPaths

    return load_frozen(RunPaths(run)).data.family


def _checkpoint_file(source: str, runs_dir: Path, float_too: bool) -> Path:
    """The checkpoint that a person means by a path or by a run; of a run its newest one that can be exported."""
    if Path(expanded(source)).is_file():
        return Path(expanded(source))
    from ubq.jobs.status import find_run
    from ubq.stages.paths import RunPaths
    from ubq.stages.qat_diffusion import FINAL, QatDiffusion

    if source.endswith((".pt", ".pth")):
        raise CheckpointError(_("{path} does not exist").format(path=source), _("give a checkpoint or a run"))
    run = find_run(source, runs_dir)
    paths = RunPaths(run)
    candidates = [paths.checkpoints(QatDiffusion.name) / FINAL]
    if float_too:
        candidates += [paths.checkpoints(stage) / file for stage, file in _FLOAT_FILES.items()]
    for path in candidates:
        if path.is_file():
            return path
    raise CheckpointError(
        _("the run {run} has no model to export yet").format(run=run.name),
        _("go on with it: {command}").format(command=run_command("resume", run)),
    )


_FLOAT_FILES = {"import": "model.pt", "train-diffusion": "diffusion.pt"}
"""Stage -> file whose presence says that a run's float model is whole."""


def _run_of(path: Path) -> Path | None:
    """The run that a stage's checkpoint lies in."""
    folder = path.resolve().parent
    run = folder.parent.parent
    return run if folder.parent.name == "checkpoints" and (run / "config.toml").is_file() else None


def _from_qat(path: Path, changed: dict[str, Any], backend: str) -> tuple[Generator, Recipe]:
    """Generator of a QAT checkpoint with another sampler or engine where asked for."""
    from dataclasses import replace

    from ubq.model.parts import DEPLOYED
    from ubq.quant.checkpoint import load_qat
    from ubq.quant.generator import Sampler
    from ubq.quant.layers import activation_levels

    loaded = load_qat(path)
    absent = [part for part in DEPLOYED if part not in loaded.parts]
    if absent:
        raise CheckpointError(
            _("{path} lacks {parts}").format(path=path, parts=", ".join(absent)),
            _("give final_qat_model.pt, which holds everything"),
        )
    recipe = loaded.recipe
    if backend:
        quant = _checked("quant", recipe.quant, {"backend": backend})
        if activation_levels(quant) != activation_levels(recipe.quant):
            raise UsageError(
                _("{path} was trained for {old}, whose activations have another number of bits than {new}'s").format(
                    path=path, old=recipe.quant.backend, new=backend
                ),
                _("train for it: ubq run --set quant.backend={new}").format(new=backend),
            )
        recipe = replace(recipe, quant=quant)
    if changed:
        _refuse_other_steps(recipe, changed, path)
        if "solver" in changed and "steps" not in changed:
            changed = {"steps": 0, **changed}  # the default of another solver is another one
        recipe = replace(recipe, export=_checked("export", recipe.export, changed))
        sizes = recipe.sizes
        loaded.generator.sampler = Sampler(sizes.diffusion_steps, sizes.objective, recipe.export, recipe.distilled)
    return loaded.generator, recipe


def _refuse_other_steps(recipe: Recipe, changed: dict[str, Any], path: Path) -> None:
    """Raises UsageError where another sampler is asked for than the one that a U-Net is distilled for."""
    trained = {"solver": recipe.export.sampler, "steps": recipe.export.steps}
    if recipe.distilled and any(value != trained.get(name) for name, value in changed.items()):
        raise UsageError(
            _("{path} is distilled to {steps} steps of ddim and draws in no others").format(
                path=path, steps=recipe.export.steps
            ),
            _("leave --solver, --steps and --step-choice out, or train without: ubq run --set distill.steps=0"),
        )


def _from_float(
    path: Path,
    changed: dict[str, Any],
    backend: str,
    normalization: str,
    weights: str,
    decoders: Path | None,
    family: str,
) -> tuple[Generator, Recipe]:
    """Generator of a float checkpoint."""
    import torch

    from ubq.config.schema import DataConfig, ExportConfig, QuantConfig
    from ubq.data.normalization import for_config
    from ubq.model import UBDiff
    from ubq.model.parts import PARTS
    from ubq.quant.generator import Recipe, deployable
    from ubq.upstream.importer import read_checkpoint

    if weights not in ("ema", "raw"):
        raise UsageError(_("--weights {weights}: no such weights").format(weights=weights), "ema, raw")
    imported = read_checkpoint(path, weights, decoder_path=decoders, need=[p for p in PARTS if p != "encoder"])  # type: ignore[arg-type]
    data = {"family": family or _DEFAULT_FAMILY, "normalization": normalization or imported.suggested_normalization}
    recipe = Recipe(
        sizes=imported.sizes,
        normalization=for_config(_checked("data", DataConfig(), data)),
        quant=_checked("quant", QuantConfig(), {"backend": backend} if backend else {}),
        export=_checked("export", ExportConfig(), changed),
    )
    with torch.device("meta"):
        model = UBDiff(imported.sizes)
    model.load_state_dict(imported.state, strict=False, assign=True)  # the encoder is not deployed, and may be absent
    return deployable(model, recipe, keep_model=False), recipe


def _from_float_run(run: Path, changed: dict[str, Any], backend: str) -> tuple[Generator, Recipe]:
    """Generator of a run's float model, as pretrained or imported."""
    from dataclasses import replace

    import torch

    from ubq.jobs.frozen import load_frozen
    from ubq.model import UBDiff
    from ubq.model.parts import DEPLOYED
    from ubq.quant.generator import Recipe, deployable
    from ubq.stages.floatmodel import STUDENT, normalization_of, sizes_of, trained_parts
    from ubq.stages.paths import RunPaths

    paths = RunPaths(run)
    config = load_frozen(paths)
    student = paths.checkpoints("distill") / STUDENT
    recipe = Recipe(
        sizes=sizes_of(config, paths),
        normalization=normalization_of(config, paths),
        quant=_checked("quant", config.quant, {"backend": backend} if backend else {}),
        export=config.sampling,
        distilled=bool(config.distill.steps),
    )
    if recipe.distilled and not student.is_file():
        raise CheckpointError(
            _("the run {run} has no model to export yet").format(run=run.name),
            _("go on with it: {command}").format(command=run_command("resume", run)),
        )
    _refuse_other_steps(recipe, changed, run)
    recipe = replace(recipe, export=_checked("export", recipe.export, changed))
    with torch.device("meta"):
        model = UBDiff(recipe.sizes)
    deployed = tuple(part for parts in DEPLOYED.values() for part in parts)
    for part, module in trained_parts(config, paths, deployed, torch.device("cpu"), student=True).items():
        setattr(model, part, module)
    return deployable(model, recipe, keep_model=False), recipe


def _checked(table: str, old: Any, changes: dict[str, Any]) -> Any:
    """A configuration table with some keys changed and all of it checked."""
    from pydantic import ValidationError

    try:
        return type(old)(**{**old.model_dump(), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, (table, *first["loc"])))
        raise UsageError(f"{key}: {first['msg']}", _("see: ubq export checkpoint --help")) from error
