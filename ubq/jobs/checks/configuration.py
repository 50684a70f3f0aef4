"""What the configuration asks for: keys, data, checkpoint, what data are synthesised with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ubq.config.runs import command
from ubq.errors import UbqError
from ubq.i18n import gettext as _
from ubq.jobs.checks.check import Check, read_json
from ubq.stages.paths import RunPaths

if TYPE_CHECKING:
    from ubq.config.schema import Config
    from ubq.stages.base import Stage


def parameters(config: Config) -> Iterator[Check]:
    """What is valid and still unlikely to be meant."""
    yield Check(
        id="parameters.valid",
        status="ok",
        figure=_("no mistakes"),
        why=_("a wrong value would cost a run"),
    )
    ptq = [
        n for n in ("decoders", "diffusion") if not getattr(config.qat, n).epochs and not getattr(config.qat, n).steps
    ]
    if ptq:
        yield Check(
            id="parameters.qat",
            status="warning",
            figure=_("no quantisation-aware training of: {parts}").format(parts=", ".join(ptq)),
            why=_("calibration alone loses more quality"),
            fix="--set qat.epochs=50",
            apply={"qat.epochs": 50},
        )
    if config.quant.scheme == "default":
        yield Check(
            id="parameters.scheme",
            status="warning",
            figure="quant.scheme = default",
            why=_("one scale for a whole tensor loses more quality than one for each channel"),
            fix="--set quant.scheme=aggressive",
            apply={"quant.scheme": "aggressive"},
        )


def data(config: Config, run: Path | None) -> Iterator[Check]:
    """Files and pairs: found, paired, split. Headers alone are read."""
    why = _("a stage that meets a damaged file stops hours later")
    if not config.data.train_velocity:
        count = config.data.synth_samples
        figure = _("none given: {count} {family}-like pairs will be synthesised")
        yield Check(id="data.files", status="ok", figure=figure.format(count=count, family=config.data.family), why=why)
    else:
        from ubq.data.families import recognise
        from ubq.data.pairs import open_pairs

        split = open_pairs(config.data, config.seed)
        figure = _("{train} training and {val} held-out pairs: {rule}")
        figure = figure.format(train=len(split.train), val=len(split.val), rule=split.rule)
        yield Check(id="data.files", status="ok", figure=figure, why=why)
        files = [pair for side in (split.train, split.val) for pair in side.files]
        ids = [pair.id for pair in files if pair.id is not None]
        folders = {part for pair in files for part in pair.velocity.path.resolve().parent.parts[-3:]}
        families = recognise(ids, folders) if len(ids) == len(files) else ()
        fits = not families or config.data.family in families
        yield Check(
            id="data.family",
            status="ok" if fits else "warning",
            figure=config.data.family
            if fits
            else _("data.family is {family}, the file names are those of {families}").format(
                family=config.data.family, families=", ".join(families)
            ),
            why=_("the data set decides the amplitude range and the official split"),
            fix="" if fits else f"--set data.family={families[0]}",
            apply={} if fits else {"data.family": families[0]},
        )
    if run is not None and (seen := read_json(RunPaths(run).data / "dataset.json")):
        for warning in seen.get("warnings", []):
            yield Check(id="data.content", status="warning", figure=str(warning), why=why)


def checkpoint(config: Config) -> Iterator[Check]:
    """The checkpoint to import, where one is named."""
    for key, name in (
        ("pretrained.path", config.pretrained.path),
        ("pretrained.decoder_path", config.pretrained.decoder_path),
    ):
        if not name:
            continue
        path = Path(name).expanduser()
        if not path.is_file():
            yield Check(
                id=f"checkpoint.{key.rpartition('.')[2]}",
                status="failed",
                figure=_("{path} does not exist").format(path=path),
                why=_("the model is read from it"),
                fix=f"--set {key}=FILE",
            )
        elif key == "pretrained.path":
            yield from _importable(config, path)
    if not config.pretrained.path:
        yield Check(
            id="checkpoint.path",
            status="ok",
            figure=_("none given: the model is pretrained"),
            why=_("pretraining takes longest"),
        )


def _importable(config: Config, path: Path) -> Iterator[Check]:
    """What is in the checkpoint, and whether the ranges are those it was trained with."""
    from ubq.upstream.importer import inspect_checkpoint

    why = _("the model is read from it, and nothing is loaded with holes")
    decoders = config.pretrained.decoder_path
    fix = command("ubq", "checkpoint", "inspect", str(path))
    try:
        found = inspect_checkpoint(path, config.pretrained.weights)
    except UbqError as error:
        yield Check(id="checkpoint.path", status="failed", figure=error.message, why=why, fix=error.fix or fix)
        return
    if found.problem:
        yield Check(id="checkpoint.path", status="failed", figure=found.problem, why=why, fix=fix)
        return
    described = found.to_dict()
    absent = [part for part in described["absent"] if not (decoders and "decoder" in part)]
    figure = _("{container}, {variant}, {total:.1f} M parameters, {weights} weights").format(
        container=found.container,
        variant=found.variant,
        total=described["parameters"]["total"] / 1e6,
        weights=found.weights_used,
    )
    if absent:
        figure += "; " + _("without {parts}").format(parts=", ".join(absent))
    yield Check(
        id="checkpoint.path",
        status="failed" if "unet" in absent else "warning" if absent else "ok",
        figure=figure,
        why=why,
        fix=fix if absent else "",
    )
    wanted = found.suggested_normalization
    fits = config.data.normalization in ("auto", wanted) or not isinstance(config.data.normalization, str)
    yield Check(
        id="checkpoint.normalization",
        status="ok" if fits else "warning",
        figure=_("data.normalization is {given}, the checkpoint's code trains with {wanted}").format(
            given=config.data.normalization, wanted=wanted
        ),
        why=_("a model must be used with the ranges it was trained with"),
        fix="" if fits else f"--set data.normalization={wanted}",
        apply={} if fits else {"data.normalization": wanted},
    )


def check_inputs(config: Config, todo: Sequence[Stage]) -> Check:
    """Whether the files are there that the stages read from outside the run."""
    missing = [path for stage in todo for path in stage.inputs(config) if not Path(path).exists()]
    if not missing:
        return Check(id="data", status="ok", figure=_("all input files are there"))
    return Check(
        id="data",
        status="failed",
        figure=_("{path} does not exist").format(path=missing[0]),
        why=_("a stage reads it"),
        fix=_("correct the path in the configuration or on the command line"),
    )


def check_synthesis(config: Config, names: Sequence[str]) -> list[Check]:
    """Whether pairs can be synthesised, where no data were given."""
    from ubq.config.extras import install_line, missing_modules

    if "prepare" not in names or config.data.train_velocity:
        return []
    missing = missing_modules("physics")
    return [
        Check(
            id="physics",
            status="failed" if missing else "ok",
            figure=_("not installed here: {modules}").format(modules=", ".join(missing))
            if missing
            else _("forward modelling is installed"),
            why=_("no data folder is given, so shot gathers are modelled"),
            fix=install_line("physics") if missing else "",
        )
    ]
