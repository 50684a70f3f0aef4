"""An exported TorchScript file in use; needs torch."""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch

from ubq.errors import UsageError
from ubq.i18n import gettext as _
from ubq.runtime.generator import Array, LoadedModel

FACTS_ENTRY = "/extra/ubq.json"


class TorchScriptGenerator(LoadedModel):
    """Runs under the engine the file was made for, or the first that this PyTorch has.

    The engine is a setting of the whole process.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                (entry,) = [name for name in archive.namelist() if name.endswith(FACTS_ENTRY)]
                facts = json.loads(archive.read(entry))
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise UsageError(
                _("{path} is not a model that ubq exported").format(path=path), _("give the .pt of exported_models")
            ) from error
        super().__init__(facts)
        if threads:
            torch.set_num_threads(threads)
        engines = [name for name in torch.backends.quantized.supported_engines if name != "none"]
        # before loading: the weights are packed for it
        torch.backends.quantized.engine = facts["backend"] if facts["backend"] in engines else engines[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.module = torch.jit.load(str(path), map_location="cpu")

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self.module.sampler.steps)

    @property
    def latent_length(self) -> int:
        return int(self.module.latent_length)

    @property
    def stochastic(self) -> bool:
        return bool(self.module.sampler.stochastic)

    def sample_latents(self, x_T: Array, step_noise: Array | None = None, steps: int = 0) -> Array:
        count = self.check_steps(steps)
        self.check_noise(x_T, step_noise, count)
        noise = np.zeros((count - 1, *x_T.shape), np.float32) if step_noise is None else step_noise
        with torch.no_grad():
            return self.module.sample(_tensor(x_T), _tensor(noise), count).numpy()

    def decode(self, latent: Array) -> tuple[Array, Array]:
        with torch.no_grad():
            velocity, seismic = self.module.decode(_tensor(latent))
        return velocity.numpy(), seismic.numpy()


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
