"""A generator as its users call it, whatever runtime computes it: numpy in, numpy out.

Light: numpy and the standard library. Shapes: B batch, L latent length, N sampling steps, S sources,
T time samples, R receivers.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args, overload

import numpy as np
from numpy.typing import NDArray

from ubq.errors import UsageError
from ubq.i18n import gettext as _
from ubq.runtime.noise import pair_noise
from ubq.runtime.wave import WaveEquation

Array = NDArray[np.float32]
TABLES = "ubq.tables"
"""Name, inside a file, of the JSON that ``SamplerTables`` reads."""
Gathers = Literal["wave", "decoder"]
"""How a pair's gathers are made: by the wave equation over its map, or by the seismic decoder from its latent."""


@dataclass(frozen=True)
class SamplerTables:
    """What a file says of sampling and of its outputs' units.

    Attributes:
        latent_length: L.
        stochastic: whether the solver adds noise at every step but the last.
        steps: step counts offered, the default first.
        times: visited time steps of each count, one list below the other.
        coefficients: as many rows of six (``ubq.quant.solver.COLUMNS``).
        velocity: (half, middle) of the range in m/s that [-1, 1] stands for.
        log_amplitude: (half, middle) of the range of sign(x) log1p(|x|) that [-1, 1] stands for.
    """

    latent_length: int
    stochastic: bool
    steps: Sequence[int]
    times: Sequence[int]
    coefficients: Sequence[Sequence[float]]
    velocity: tuple[float, float]
    log_amplitude: tuple[float, float]

    def to_json(self) -> str:
        """As kept inside a file."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> SamplerTables:
        """Raises a ValueError, KeyError or TypeError for anything but ``to_json``'s text."""
        return cls(**json.loads(text))


class LoadedModel(ABC):
    """Draws pairs of velocity map (1, 70, 70) in m/s and shot gathers (S, T, R) in OpenFWI's amplitude."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.facts = facts
        """What the file says of itself: name, family, solver, normalization, versions ..."""

    @property
    @abstractmethod
    def steps(self) -> tuple[int, ...]:
        """Step counts that the file offers, its default first."""

    @property
    @abstractmethod
    def latent_length(self) -> int:
        """L."""

    @property
    @abstractmethod
    def stochastic(self) -> bool:
        """Whether the solver uses ``step_noise``."""

    @abstractmethod
    def sample_latents(self, x_T: Array, step_noise: Array | None = None, steps: int = 0) -> Array:
        """Latents (B, 1, L) from noise.

        Args:
            x_T: (B, 1, L), standard normal.
            step_noise: (steps-1, B, 1, L), used in order; deterministic solvers ignore it.
            steps: one of ``steps``; 0 takes the default.

        Raises:
            UsageError: a step count that is not offered, or noise of another shape.
        """

    @abstractmethod
    def decode(self, latent: Array) -> tuple[Array, Array]:
        """Latents (B, 1, L) -> velocity (B, 1, 70, 70) in m/s, seismic (B, S, T, R) amplitude."""

    def decode_velocity(self, latent: Array) -> Array:
        """Latents (B, 1, L) -> the velocity of ``decode`` alone."""
        return self.decode(latent)[0]

    def gathers(self, velocity: Array) -> Array:
        """Maps (B, 1, 70, 70) in m/s -> the gathers (B, S, T, R) that the wave equation gives for them.

        Raises:
            UsageError: the file cannot model gathers, or the maps are none.
        """
        self.check_gathers("wave")
        map_shape = tuple(self.facts["velocity_shape"])
        if velocity.shape[1:] != map_shape or not (np.isfinite(velocity).all() and (velocity > 0).all()):
            raise UsageError(
                _("gathers are modelled for maps (B, {shape}) of positive velocities").format(
                    shape=", ".join(map(str, map_shape))
                )
            )
        return self.solve(np.asarray(velocity, np.float32))

    def solve(self, velocity: Array) -> Array:
        """``gathers`` of sound maps; in numpy, unless the file itself does it."""
        return WaveEquation(**self.facts["acquisition"])(velocity)

    def sample_pairs(
        self, n: int = 1, steps: int = 0, seed: int | None = None, batch: int = 1, gathers: Gathers = "wave"
    ) -> tuple[Array, Array]:
        """Draw pairs: velocity (n, 1, 70, 70) in m/s, seismic (n, S, T, R) amplitude.

        Args:
            n: pairs.
            steps: one of ``steps``; 0 takes the default.
            seed: None draws anew at every call; else pair i is the one that every runtime draws for (seed, i).
            batch: pairs whose latents are computed at once; with 1 pair i does not depend on n to the bit.
            gathers: how they are made; the maps are the same.

        Raises:
            UsageError: a step count that is not offered, gathers that cannot be made, fewer than one pair.
        """
        if n < 1 or batch < 1:
            raise UsageError(_("{n} pairs in batches of {batch}: both must be at least 1").format(n=n, batch=batch))
        root = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        velocity, seismic = zip(*self.draw(range(n), steps, root, batch, gathers), strict=True)
        return np.concatenate(velocity), np.concatenate(seismic)

    def draw(
        self, pairs: range, steps: int = 0, seed: int = 0, batch: int = 1, gathers: Gathers = "wave"
    ) -> Iterator[tuple[Array, Array]]:
        """The pairs of these numbers, one after the other: velocity (1, 1, 70, 70), seismic (1, S, T, R).

        Args:
            pairs: their numbers.
            steps: one of ``steps``; 0 takes the default.
            seed: of all of them (``ubq.runtime.noise``).
            batch: latents computed at once. Pairs are decoded one by one: the gather's last layer chooses its
                integer grid at every call, so in a batch a pair would depend on its neighbours.
            gathers: how they are made; the maps are the same.
        """
        if seed < 0:
            raise UsageError(_("the seed {seed} is negative").format(seed=seed))
        count = self.check_steps(steps)
        self.check_gathers(gathers)
        batches = (
            self.sample_latents(*self.noise(seed, pairs[start : start + batch], count), count)
            for start in range(0, len(pairs), batch)
        )
        latents = (latent for drawn in batches for latent in np.split(drawn, len(drawn)))
        if gathers == "decoder":
            yield from map(self.decode, latents)
        else:
            yield from self.wave_pairs(latents)

    def wave_pairs(self, latents: Iterable[Array]) -> Iterator[tuple[Array, Array]]:
        """Latents (1, 1, L), in their order: each one's map and that map's ``gathers``."""
        return map(self.wave_pair, latents)

    def wave_pair(self, latent: Array) -> tuple[Array, Array]:
        """Latent (1, 1, L) -> its map and that map's ``gathers``."""
        velocity = self.decode_velocity(latent)
        return velocity, self.gathers(velocity)

    def noise(self, seed: int, pairs: Sequence[int], steps: int) -> tuple[Array, Array]:
        """Start noise (B, 1, L) and step noise (steps-1, B, 1, L) of the pairs of these numbers."""
        return pair_noise(seed, pairs, steps, self.latent_length, self.stochastic)

    def forward(self, batch_size: int = 1, steps: int = 0) -> tuple[Array, Array]:
        """Draw ``batch_size`` pairs at once, others at every call; the gathers are the decoder's."""
        return self.sample_pairs(batch_size, steps, batch=batch_size, gathers="decoder")

    __call__ = forward

    def simulate(self, batch_size: int = 1, steps: int = 0) -> tuple[Array, Array]:
        """Draw as ``forward`` does; the gathers are what the wave equation gives for the maps."""
        return self.sample_pairs(batch_size, steps, batch=batch_size)

    @overload
    def sample(
        self, n: int = 1, steps: int = 0, seed: int | None = None, batch: int = 1, gathers: Gathers = "wave"
    ) -> tuple[Array, Array]: ...
    @overload
    def sample(self, x_T: Array, step_noise: Array | None = None, steps: int = 0) -> Array: ...
    def sample(self, *args: Any, **kwargs: Any) -> Any:
        """``sample(n, steps, seed, ...)`` is ``sample_pairs``, ``sample(x_T, step_noise, steps)`` ``sample_latents``.

        The latter is the call of the exported TorchScript file.
        """
        by_count = isinstance(args[0], int | np.integer) if args else "x_T" not in kwargs
        return self.sample_pairs(*args, **kwargs) if by_count else self.sample_latents(*args, **kwargs)

    def check_steps(self, steps: int) -> int:
        """The step count to use; 0 is the file's default.

        Raises:
            UsageError: the file does not offer it.
        """
        if steps and steps not in self.steps and self.facts.get("distilled"):
            raise UsageError(
                _("this file is distilled to {steps} steps of ddim and draws in no others").format(steps=self.steps[0]),
                _("leave --steps out"),
            )
        if steps and steps not in self.steps:
            raise UsageError(
                _("this file does not offer {steps} sampling steps").format(steps=steps),
                _("it offers {offered}; for others export again with export.step_choices").format(
                    offered=", ".join(map(str, sorted(self.steps)))
                ),
            )
        return steps or self.steps[0]

    def check_gathers(self, gathers: Gathers) -> Gathers:
        """How the gathers are to be made.

        Raises:
            UsageError: there is no such way, or the file cannot model gathers.
        """
        if gathers not in get_args(Gathers):
            raise UsageError(
                _("gathers={given}: it must be {offered}").format(
                    given=gathers, offered=_(" or ").join(get_args(Gathers))
                )
            )
        if gathers == "wave" and self.facts.get("acquisition") is None:
            raise UsageError(
                _("this file cannot model gathers: they have another shape than its maps allow, or ubq was older"),
                _("export the model again, or take the decoder's: --gathers decoder, in Python gathers='decoder'"),
            )
        return gathers

    def check_noise(self, x_T: Array, step_noise: Array | None, steps: int) -> None:
        """Raises a UsageError for noise of another shape than ``sample_latents`` takes."""
        if x_T.ndim != 3 or x_T.shape[1:] != (1, self.latent_length):
            raise UsageError(
                _("x_T has shape {shape}, not (B, 1, {length})").format(shape=x_T.shape, length=self.latent_length)
            )
        expected = (steps - 1, *x_T.shape)
        if self.stochastic and (step_noise is None or step_noise.shape != expected):
            raise UsageError(
                _("step_noise must have shape {wanted}: one draw for each step but the last").format(wanted=expected)
            )


class SteppingGenerator(LoadedModel):
    """A generator whose file holds one U-Net step and the decoders: the solver's loop runs here."""

    def __init__(self, facts: Mapping[str, Any], tables: SamplerTables) -> None:
        super().__init__(facts)
        self.tables = tables
        self._coefficients = np.asarray(tables.coefficients, np.float32)
        self._times = np.asarray(tables.times, np.int64)

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(self.tables.steps)

    @property
    def latent_length(self) -> int:
        return self.tables.latent_length

    @property
    def stochastic(self) -> bool:
        return self.tables.stochastic

    @abstractmethod
    def unet(self, x: Array, time: NDArray[np.int64]) -> Array:
        """One U-Net step: noisy latents (B, 1, L), time steps (B,) that the sampler visits -> prediction (B, 1, L)."""

    @abstractmethod
    def decode_normalised(self, latent: Array) -> tuple[Array, Array]:
        """Latents (B, 1, L) -> velocity in [-1, 1] and the gather on its logarithmic scale."""

    def sample_latents(self, x_T: Array, step_noise: Array | None = None, steps: int = 0) -> Array:
        count = self.check_steps(steps)
        self.check_noise(x_T, step_noise, count)
        first = sum(self.steps[: self.steps.index(count)])
        x = np.asarray(x_T, np.float32)
        previous = np.zeros_like(x)
        for i in range(count):
            c = self._coefficients[first + i]
            time = np.full(len(x), self._times[first + i])
            x0 = np.clip(c[0] * x + c[1] * self.unet(x, time), -1.0, 1.0)
            x = c[2] * x + c[3] * x0 + c[4] * previous
            if self.stochastic and i < count - 1:
                assert step_noise is not None
                x = x + c[5] * step_noise[i]
            previous = x0
        return x

    def decode(self, latent: Array) -> tuple[Array, Array]:
        velocity, seismic = self.decode_normalised(np.asarray(latent, np.float32))
        (half, middle), (log_half, log_middle) = self.tables.velocity, self.tables.log_amplitude
        log = seismic * np.float32(log_half) + np.float32(log_middle)
        return velocity * np.float32(half) + np.float32(middle), np.copysign(np.expm1(np.abs(log)), log)
