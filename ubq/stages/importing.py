"""import: a checkpoint that the user already has, in place of pretraining."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ubq.config.schema import Config
from ubq.errors import CheckpointError
from ubq.i18n import gettext as _
from ubq.stages.base import Stage, StageContext
from ubq.stages.device import use_device
from ubq.stages.floatmodel import IMPORT_FACTS, IMPORTED, imported
from ubq.stages.maps import open_maps, sample_ids
from ubq.stages.paths import RunPaths
from ubq.training.files import save_json, save_tensors

if TYPE_CHECKING:
    from ubq.data.normalization import Normalization
    from ubq.upstream.importer import ImportedModel

NOTHING_LEARNED = 0.95
"""Diffusion loss, over that of predicting nothing, from which on a U-Net has learned nothing: that of a fresh one is
above 1, of one trained for two minutes below 0.4 (preset demo)."""
_PROBES = 16


def read_pretrained(config: Config) -> ImportedModel:
    """The checkpoint that the configuration names, with the decoders of the second where one is named.

    Raises:
        CheckpointError: as ``ubq.upstream.importer.read_checkpoint``.
    """
    from ubq.quant.checkpoint import is_qat
    from ubq.upstream.importer import read_checkpoint

    decoders = Path(config.pretrained.decoder_path) if config.pretrained.decoder_path else None
    return read_checkpoint(
        Path(config.pretrained.path),
        config.pretrained.weights,
        # a QAT checkpoint of decoders replaces the training of qat-decoders, not the float decoders
        decoder_path=decoders if decoders and not is_qat(decoders) else None,
        # the tensors show only the product of a gather's three dimensions
        sizes={"sources": config.model.sources, "receivers": config.model.receivers},
    )


def decoders_problem(config: Config, imported_model: ImportedModel | None) -> str:
    """Why the decoders that the configuration names cannot be used; empty when they can, or when there are none.

    Args:
        config: of the run.
        imported_model: the model they are for, where one is imported; its decoders may be those.

    Raises:
        CheckpointError: the file is a QAT checkpoint, and cannot be read.
    """
    from ubq.model import ModelSizes
    from ubq.quant.checkpoint import is_qat, sizes_and_parts
    from ubq.upstream.importer import DECODER_SIZES

    path = Path(config.pretrained.decoder_path)
    if not config.pretrained.decoder_path or (imported_model and not is_qat(path)):
        return ""
    if not is_qat(path):
        return _(
            "{path} holds no decoders of a QAT stage, and no model is imported that others could be put into"
        ).format(path=path)
    sizes, parts = sizes_and_parts(path)
    if missing := [part for part in ("velocity", "seismic") if part not in parts]:
        return _("{path} holds no {parts} decoder").format(path=path, parts=", ".join(missing))
    expected = imported_model.sizes if imported_model else ModelSizes.from_dict(config.model.model_dump())
    odd = [key for key in ("encoder_dim", *DECODER_SIZES) if getattr(sizes, key) != getattr(expected, key)]
    if not odd:
        return ""
    return _("the decoders of {path} are for another model: {key} is {theirs}, not {ours}").format(
        path=path, key=odd[0], theirs=getattr(sizes, odd[0]), ours=getattr(expected, odd[0])
    )


def ranges_of(config: Config, imported_model: ImportedModel) -> Normalization:
    """Ranges that the imported model is used with: the configured ones, or those of its code base."""
    from ubq.data.normalization import for_config

    data = config.data
    if data.normalization == "auto":
        data = data.model_copy(update={"normalization": imported_model.suggested_normalization})
    return for_config(data)


def nothing_learned(config: Config, imported_model: ImportedModel) -> str:
    """Why the U-Net of a checkpoint looks as if it had never been trained; empty when it does not.

    Its diffusion loss is measured on latents of maps synthesised in the run's family, and compared with the loss of
    predicting zeros: what a fresh network makes of its input has nothing to do with the target.
    """
    import torch

    from ubq.data.synthetic import synthesise_velocity
    from ubq.model import GaussianDiffusion

    model, sizes = imported_model.model(), imported_model.sizes
    maps = torch.from_numpy(synthesise_velocity(config.data.family, _PROBES, config.seed))
    diffusion = GaussianDiffusion(sizes.diffusion_steps, sizes.objective, uniform=True)
    time = torch.linspace(0, sizes.diffusion_steps - 1, _PROBES).long()
    with torch.no_grad():
        latents = model.encode(ranges_of(config, imported_model).velocity(maps)).flatten(1)[:, None]
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(config.seed))
        loss = diffusion.loss(model.unet, latents, time, noise)
        nothing = diffusion.weighted_error(torch.zeros_like(latents), diffusion.target(latents, time, noise), time)
    share = float(loss / nothing)
    if share < NOTHING_LEARNED:
        return ""
    return _(
        "the U-Net of {path} was never trained: its diffusion loss is {share:.2f} times that of no prediction"
    ).format(path=imported_model.path, share=share)


def find_the_diffusion_checkpoint() -> str:
    """What to do about a checkpoint whose U-Net has learned nothing."""
    return _("give the diffusion checkpoint, as model-4.pt, and this one with --decoder-checkpoint")


class Import(Stage):
    """Reads the checkpoint and the velocity maps, makes ``model.pt``, ``import.json`` and ``latents.pt``."""

    name = "import"
    reads = (
        "device",
        "data.normalization",
        "model.sources",
        "model.receivers",
        "pretrained.path",
        "pretrained.weights",
        "pretrained.decoder_path",
    )
    after = ("prepare",)

    def applies(self, config: Config) -> bool:
        return imported(config)

    def inputs(self, config: Config) -> Iterable[Path]:
        return [Path(p) for p in (config.pretrained.path, config.pretrained.decoder_path) if p]

    def outputs(self, config: Config, paths: RunPaths) -> Iterable[Path]:
        folder = paths.checkpoints(self.name)
        return [folder / IMPORTED, folder / IMPORT_FACTS, paths.latents]

    def run(self, context: StageContext) -> None:
        from ubq.model import build_part
        from ubq.training.latents import save_latents

        config, paths = context.config, context.paths
        imported_model = read_pretrained(config)
        if doubt := nothing_learned(config, imported_model):
            if imported_model.of_decoders:
                raise CheckpointError(doubt, find_the_diffusion_checkpoint())
            context.log(_("warning: {warning}").format(warning=doubt))
        normalization = ranges_of(config, imported_model)
        save_json(
            paths.checkpoints(self.name) / IMPORT_FACTS,
            {
                "container": imported_model.container,
                "variant": imported_model.variant,
                "weights": imported_model.weights_used,
                "step": imported_model.step,
                "sizes": imported_model.sizes.to_dict(),
                "normalization": normalization.to_dict(),
                "notes": list(imported_model.notes),
            },
        )
        context.log(
            _("imported {container}: {parameters:.1f} M parameters, {weights} weights, {ranges} ranges").format(
                container=imported_model.container,
                parameters=sum(imported_model.parameters_per_part.values()) / 1e6,
                weights=imported_model.weights_used,
                ranges=imported_model.suggested_normalization
                if config.data.normalization == "auto"
                else config.data.normalization,
            )
        )
        save_tensors(paths.checkpoints(self.name) / IMPORTED, imported_model.state)
        device = use_device(config)
        encoder = build_part(imported_model.sizes, "encoder")
        encoder.load_state_dict(
            {n.removeprefix("encoder."): t for n, t in imported_model.state.items() if n.startswith("encoder.")}
        )
        sides = open_maps(config, paths, normalization, device, seismic=False)
        save_latents(
            encoder.to(device), dict(zip(("train", "val"), sides, strict=True)), paths.latents, sample_ids(paths)
        )
