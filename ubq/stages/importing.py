"""import: a checkpoint that the user already has, in place of pretraining."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ubq.config.schema import Config
from ubq.i18n import gettext as _
from ubq.stages.base import Stage, StageContext
from ubq.stages.device import use_device
from ubq.stages.floatmodel import IMPORT_FACTS, IMPORTED, imported
from ubq.stages.maps import open_maps, sample_ids
from ubq.stages.paths import RunPaths
from ubq.training.files import save_json, save_tensors


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
        from ubq.data.normalization import for_config
        from ubq.model import build_part
        from ubq.quant.checkpoint import is_qat
        from ubq.training.latents import save_latents
        from ubq.upstream.importer import read_checkpoint

        config, paths = context.config, context.paths
        decoders = Path(config.pretrained.decoder_path) if config.pretrained.decoder_path else None
        found = read_checkpoint(
            Path(config.pretrained.path),
            config.pretrained.weights,
            # a QAT checkpoint of decoders replaces the training of qat-decoders, not the float decoders
            decoder_path=decoders if decoders and not is_qat(decoders) else None,
            # the tensors show only the product of a gather's three dimensions
            sizes={"sources": config.model.sources, "receivers": config.model.receivers},
        )
        data = config.data
        if data.normalization == "auto":
            data = data.model_copy(update={"normalization": found.suggested_normalization})
        normalization = for_config(data)
        save_json(
            paths.checkpoints(self.name) / IMPORT_FACTS,
            {
                "container": found.container,
                "variant": found.variant,
                "weights": found.weights_used,
                "step": found.step,
                "sizes": found.sizes.to_dict(),
                "normalization": normalization.to_dict(),
                "notes": list(found.notes),
            },
        )
        context.log(
            _("imported {container}: {parameters:.1f} M parameters, {weights} weights, {ranges} ranges").format(
                container=found.container,
                parameters=sum(found.parameters_per_part.values()) / 1e6,
                weights=found.weights_used,
                ranges=data.normalization,
            )
        )
        save_tensors(paths.checkpoints(self.name) / IMPORTED, found.state)
        device = use_device(config)
        encoder = build_part(found.sizes, "encoder")
        encoder.load_state_dict(
            {n.removeprefix("encoder."): t for n, t in found.state.items() if n.startswith("encoder.")}
        )
        sides = open_maps(config, paths, normalization, device, seismic=False)
        save_latents(
            encoder.to(device), dict(zip(("train", "val"), sides, strict=True)), paths.latents, sample_ids(paths)
        )
