"""The float model as the stages before left it, in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ubq.config.schema import Config
from ubq.model.parts import AUTOENCODER, SEISMIC, UNET
from ubq.stages.paths import RunPaths
from ubq.training.files import load_json, load_tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ubq.data.normalization import Normalization
    from ubq.model import ModelSizes

_MADE_BY = {
    **dict.fromkeys(AUTOENCODER, ("train-autoencoder", "autoencoder.pt")),
    **dict.fromkeys(SEISMIC, ("train-seismic", "seismic.pt")),
    **dict.fromkeys(UNET, ("train-diffusion", "diffusion.pt")),
}
IMPORT_FACTS = "import.json"
IMPORTED = "model.pt"
STUDENT = "student.pt"
"""The U-Net as the stage distill leaves it."""


def imported(config: Config) -> bool:
    """Whether the float model comes from a checkpoint instead of pretraining."""
    return bool(config.pretrained.path)


def sizes_of(config: Config, paths: RunPaths) -> ModelSizes:
    """Sizes of the model: the checkpoint's own where one was imported, else the configuration's."""
    from ubq.model import ModelSizes

    if imported(config):
        return ModelSizes.from_dict(load_json(paths.checkpoints("import") / IMPORT_FACTS)["sizes"])
    return ModelSizes.from_dict(config.model.model_dump())


def normalization_of(config: Config, paths: RunPaths) -> Normalization:
    """Ranges the model was or is trained with."""
    from ubq.data.normalization import Normalization, for_config

    if imported(config):
        return Normalization.from_dict(load_json(paths.checkpoints("import") / IMPORT_FACTS)["normalization"])
    return for_config(config.data)


def new_parts(
    config: Config, paths: RunPaths, parts: tuple[str, ...], device: torch.device, stage: str
) -> dict[str, nn.Module]:
    """Parts with fresh weights that follow from the run's seed and the stage's name; none on the meta device."""
    import torch

    from ubq.model import build_part
    from ubq.training.randomness import key

    sizes = sizes_of(config, paths)
    if device.type == "meta":
        with device:
            return {part: build_part(sizes, part) for part in parts}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(config.seed, stage, "weights"))
        return {part: build_part(sizes, part).to(device) for part in parts}


def trained_parts(
    config: Config, paths: RunPaths, parts: tuple[str, ...], device: torch.device, student: bool = False
) -> dict[str, nn.Module]:
    """Parts as trained or imported, in evaluation mode; nothing is loaded with holes.

    Args:
        config, paths: of the run.
        parts: names.
        device: to put them on; the meta device: without their weights.
        student: the U-Net as it is distilled, where the configuration has it so, and not its teacher.

    Raises:
        StageError: the file of a part is missing.
    """
    import torch

    from ubq.model import build_part

    sizes = sizes_of(config, paths)
    distilled = student and bool(config.distill.steps)
    files = {
        ("distill", STUDENT)
        if distilled and part in UNET
        else ("import", IMPORTED)
        if imported(config)
        else _MADE_BY[part]
        for part in parts
    }
    state: dict[str, Tensor] = {}
    for stage, name in sorted(files, key=lambda file: file[1] == STUDENT):  # over an imported U-Net
        state.update(load_tensors(paths.checkpoints(stage) / name))
    loaded = {}
    for part in parts:
        with torch.device("meta"):
            module = build_part(sizes, part)
        part_state = {n.removeprefix(f"{part}."): t for n, t in state.items() if n.startswith(f"{part}.")}
        # assigned tensors are memory-mapped read-only pages: clone what will be trained or moved
        if device.type != "meta":
            module.load_state_dict({n: t.clone() for n, t in part_state.items()}, strict=True, assign=True)
        loaded[part] = module.to(device).eval()
    return loaded


def state_of(parts: dict[str, nn.Module]) -> dict[str, Tensor]:
    """State of the parts, each name led by its part's."""
    return {f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()}
