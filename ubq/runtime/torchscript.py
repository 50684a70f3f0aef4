"""An exported TorchScript file in use; needs torch."""

from __future__ import annotations

import itertools
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from ubq.errors import UsageError
from ubq.i18n import gettext as _
from ubq.runtime.facts import read_facts
from ubq.runtime.generator import Array, LoadedModel
from ubq.runtime.processor import exact_engine

WAITING = 4
"""Latents for each thread that wait for it: work for the time that the next batch of latents takes."""


class TorchScriptGenerator(LoadedModel):
    """Runs under one of PyTorch's integer engines, a setting of the whole process.

    Args:
        path: the file.
        threads: 0: PyTorch's choice.
        backend: engine; empty: the one the file was made for; where this PyTorch lacks it, or this processor clips its
            sums, qnnpack or the first.

    Raises:
        UsageError: not such a file, or this PyTorch lacks the engine.
    """

    def __init__(self, path: Path, threads: int = 0, backend: str = "") -> None:
        super().__init__(read_facts(path))
        if threads:
            torch.set_num_threads(threads)
        self.backend = _engine(backend, self.facts["backend"])
        torch.backends.quantized.engine = self.backend  # before loading: the weights are packed for it
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self.module = torch.jit.load(str(path), map_location="cpu")
            except (RuntimeError, ValueError) as error:
                raise UsageError(
                    _("{path} is not a TorchScript file").format(path=path), _("give the .pt of exported_models")
                ) from error

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

    def decode_velocity(self, latent: Array) -> Array:
        with torch.no_grad():
            return self.module.decode_velocity(_tensor(latent)).numpy()

    def wave_pairs(self, latents: Iterable[Array]) -> Iterator[tuple[Array, Array]]:
        """As many side by side as torch has threads: the arrays of one map are too small for several."""
        threads = torch.get_num_threads()
        following = iter(latents)
        ahead = list(itertools.islice(following, 2))
        latents = itertools.chain(ahead, following)
        if threads == 1 or len(ahead) < 2:
            yield from super().wave_pairs(latents)
            return
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        waiting: deque[Future[tuple[Array, Array]]] = deque()
        try:
            for latent in latents:
                waiting.append(pool.submit(self.wave_pair, latent))
                if len(waiting) > WAITING * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)  # of threads to come, too

    def solve(self, velocity: Array) -> Array:
        with torch.no_grad():
            return self.module.gathers(_tensor(velocity)).numpy()


def _engine(requested: str, made_for: str) -> str:
    supported = [name for name in torch.backends.quantized.supported_engines if name != "none"]
    if requested and requested not in supported:
        raise UsageError(
            _("this PyTorch has no quantised engine {name}").format(name=requested),
            _("use --backend {engines}").format(engines=_(" or ").join(supported)),
        )
    return requested or next((name for name in (exact_engine(made_for), "qnnpack") if name in supported), supported[0])


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
