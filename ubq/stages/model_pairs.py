"""model-pairs: pairs without end for the seismic decoder, of maps that the velocity decoder makes.

A data set's gathers belong to its own maps, and a generated pair ships a decoded one. Here the wave equation gives the
gather of the decoded map, for latents of both kinds that the decoder meets: the encoder's and the sampler's.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ubq.config.schema import Config, ExportConfig
from ubq.errors import DataError
from ubq.i18n import gettext as _
from ubq.model.parts import DEPLOYED, UNET
from ubq.stages.base import Stage, StageContext, Stopped
from ubq.stages.device import use_device
from ubq.stages.floatmodel import normalization_of, sizes_of, trained_parts
from ubq.stages.maps import open_latents, sample_ids, seismic_shape
from ubq.stages.modelled import MODELLED_LATENTS, PAIRS_PER_FILE, digest_of_maps, modelled_files, wanted_pairs
from ubq.stages.paths import RunPaths
from ubq.training.files import load_tensors, save_tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

AT_A_TIME = 64
"""Latents that are drawn and decoded together. Always whole blocks: a smaller one would have other last digits, and a
run that wants more pairs could not go on from those that it has."""


class ModelPairs(Stage):
    """Reads the latents, the velocity decoder and the U-Net, makes ``data/modelled/``."""

    name = "model-pairs"
    reads = (
        "seed",
        "device",
        "data.normalization",
        "model.sources",
        "model.seismic_samples",
        "model.receivers",
        "train.seismic.modelled_pairs",
        "distill.steps",
    )
    after = ("prepare", "train-autoencoder", "train-diffusion", "distill")

    def applies(self, config: Config) -> bool:
        return bool(wanted_pairs(config))

    def outputs(self, config: Config, paths: RunPaths) -> Iterable[Path]:
        return [paths.modelled / MODELLED_LATENTS, *(gathers for _maps, gathers in modelled_files(config, paths))]

    def run(self, context: StageContext) -> None:
        from ubq.data.forward import forward_files

        config, paths = context.config, context.paths
        _draw(context)
        finished = forward_files(
            paths.modelled,
            paths.modelled,
            workers=config.data.workers,
            progress=lambda done, total: context.progress(done, total, phase="forward"),
            should_stop=context.stop_requested,
            wave_shape=seismic_shape(config),
        )
        if not finished:
            raise Stopped


def _draw(context: StageContext) -> None:
    """Latents and their decoded maps on disk, if those that are there are others, or too few.

    Every other latent is the encoder's, of training maps in random order, as long as there are any; the rest the
    sampler's, which is the distilled U-Net where there is one.
    """
    import torch

    config, paths = context.config, context.paths
    count, device = wanted_pairs(config), use_device(config)
    parts = trained_parts(config, paths, (*UNET, *DEPLOYED["velocity"]), device, student=True)
    encoded = open_latents(paths, torch.device("cpu")).train
    key = _key(config, parts, encoded)
    known = _stored(paths.modelled / MODELLED_LATENTS)
    if known and torch.equal(known["of"], key):
        if len(known["latents"]) == count and all(maps.is_file() for maps, _g in modelled_files(config, paths)):
            return
    else:
        shutil.rmtree(paths.modelled, ignore_errors=True)

    context.log(_("modelling {count} pairs of decoded maps for the seismic decoder").format(count=count))
    numbers = torch.arange(-(-count // AT_A_TIME) * AT_A_TIME)
    chosen = _of_encoder(config, len(encoded), len(numbers))
    latents = torch.where((chosen < 0)[:, None], 0.0, encoded[chosen])
    latents[chosen < 0] = sampled_latents(config, paths, parts["unet"], int((chosen < 0).sum()), device)
    _write_maps(config, paths, parts, latents, device)
    tensors = {"of": key, "latents": latents[:count]}
    if (ids := sample_ids(paths)) is not None:
        rows = torch.from_numpy(ids.train)[chosen]
        tensors["samples"] = torch.where((chosen < 0)[:, None], -1, rows)[:count]
    save_tensors(paths.modelled / MODELLED_LATENTS, {**tensors, "maps": digest_of_maps(config, paths)})


def _of_encoder(config: Config, available: int, count: int) -> Tensor:
    """For each pair the number of the training map that its latent is the encoder's of, or -1, (N,) int64."""
    import torch

    from ubq.training.randomness import seeded_generator

    order = torch.randperm(available, generator=seeded_generator(config.seed, ModelPairs.name, "order"))
    chosen = torch.full((count,), -1)
    training_maps = order[: (count + 1) // 2]
    chosen[: 2 * len(training_maps) : 2] = training_maps
    return chosen


def sampled_latents(config: Config, paths: RunPaths, unet: nn.Module, count: int, device: torch.device) -> Tensor:
    """Latents (N, L) that the sampler draws, each from its own noise."""
    import torch

    from ubq.quant.generator import Recipe
    from ubq.stages.distill import generator_around
    from ubq.training.randomness import SampleDraws

    sizes, distilled = sizes_of(config, paths), bool(config.distill.steps)
    # Another solver or step count in the exported file must not start the decoder's training over.
    export = config.sampling if distilled else ExportConfig()
    recipe = Recipe(sizes, normalization_of(config, paths), config.quant, export, distilled)
    generator = generator_around(unet, recipe, device)
    batches = []
    with torch.no_grad():
        for first in range(0, count, AT_A_TIME):
            draws = SampleDraws(config.seed, ModelPairs.name, range(first, first + AT_A_TIME))
            noise = draws.normal(1, sizes.encoder_dim).to(device)
            batches.append(generator.sample(noise, noise.new_empty(0), 0).flatten(1).cpu())
    return torch.cat(batches)[:count] if batches else torch.empty(0, sizes.encoder_dim)


def _write_maps(
    config: Config, paths: RunPaths, parts: dict[str, nn.Module], latents: Tensor, device: torch.device
) -> None:
    """What the velocity decoder makes of latents (N, L), in m/s; files that are no longer wanted go."""
    import numpy as np
    import torch

    from ubq.durable import replacing

    ranges = normalization_of(config, paths)
    with torch.no_grad():
        decoded = torch.cat(
            [
                parts["velocity_decoder"](parts["velocity_projector"](part.to(device))).float().cpu()
                for part in latents.split(AT_A_TIME)
            ]
        )
    velocity = ranges.unvelocity(decoded)[: wanted_pairs(config)].numpy()
    files = modelled_files(config, paths)
    try:
        paths.modelled.mkdir(parents=True, exist_ok=True)
        for stale in {*paths.modelled.glob("*.npy")} - {path for pair in files for path in pair}:
            stale.unlink()
        for number, (maps, _gathers) in enumerate(files):
            with replacing(maps) as temporary, temporary.open("wb") as file:
                np.save(file, velocity[number * PAIRS_PER_FILE :][:PAIRS_PER_FILE], allow_pickle=False)
    except OSError as error:
        raise DataError(
            _("cannot write {folder}: {why}").format(folder=paths.modelled, why=error.strerror),
            _("choose another folder"),
        ) from error


def _key(config: Config, parts: dict[str, nn.Module], encoded: Tensor) -> Tensor:
    """What decides the pairs, but for their number: (32,) uint8."""
    import torch

    digest = hashlib.sha256(repr((config.seed, config.distill.steps, seismic_shape(config))).encode())
    digest.update(repr((config.data.family, config.data.normalization)).encode())
    tensors = [t for name in sorted(parts) for t in parts[name].state_dict().values()]
    for tensor in (*tensors, encoded):
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


def _stored(path: Path) -> dict[str, Tensor]:
    return load_tensors(path) if path.is_file() else {}
