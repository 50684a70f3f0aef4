"""The generator that is trained quantisation-aware and exported: U-Net, decoders, sampler, ranges.

The same forward code serves the float, the fake-quantised and the integer model: only leaf layers
differ. Everything here scripts.

Shapes: B batch, L latent length, N sampling steps, S sources, T time samples, R receivers.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from ubq.acquisition import acquisition_for
from ubq.config.schema import ExportConfig, QuantConfig
from ubq.data.families import VELOCITY_SHAPE
from ubq.data.normalization import Normalization
from ubq.model import ModelSizes, UBDiff
from ubq.model.parts import DEPLOYED
from ubq.model.wave import WaveEquation
from ubq.quant import rewrites
from ubq.quant.solver import COLUMNS, angle_even_times, make_schedule, offered_steps, training_schedule
from ubq.quant.ten_bit import add_ten_bit_io


@dataclass(frozen=True)
class Recipe:
    """Everything but the weights that decides a generator.

    Attributes:
        sizes: of the float model.
        normalization: ranges the model was trained with.
        quant: rewrites and quantisation.
        export: solver and step counts.
        distilled: the U-Net has learnt to sample in ``export.steps`` steps, at times of its own.
    """

    sizes: ModelSizes
    normalization: Normalization
    quant: QuantConfig
    export: ExportConfig
    distilled: bool = False


class Sampler(nn.Module):
    """Tables of every step count that a generator offers, one below the other.

    Args:
        diffusion_steps: of the training process, S.
        objective: what the U-Net predicts.
        export: solver and step counts.
        distilled: visit the times that a U-Net is distilled for.
    """

    def __init__(self, diffusion_steps: int, objective: str, export: ExportConfig, distilled: bool = False) -> None:
        super().__init__()
        alphas_cumprod = training_schedule(diffusion_steps)
        offered, solver = offered_steps(export, diffusion_steps), export.sampler
        schedules = [
            make_schedule(
                alphas_cumprod, objective, solver, n, angle_even_times(alphas_cumprod, n) if distilled else None
            )
            for n in offered
        ]
        self.steps: list[int] = list(offered)
        self.solver: str = solver
        self.diffusion_steps: int = diffusion_steps
        self.stochastic: bool = solver == "ddpm"
        self.times: Tensor
        self.coefficients: Tensor
        self.register_buffer("times", torch.cat([s.times for s in schedules]), persistent=False)
        coefficients = torch.cat([s.coefficients for s in schedules]).float()
        self.register_buffer("coefficients", coefficients, persistent=False)

    def forward(self, steps: int) -> int:
        """First row of a step count's table; raises a ValueError for one that is not offered."""
        first = 0
        for offered in self.steps:
            if offered == steps:
                return first
            first += offered
        raise ValueError("steps={} is not offered by this file, which has steps={}".format(steps, self.steps))  # noqa: UP032 (TorchScript has no f-strings with values)

    def visited(self) -> Tensor:
        """Every time step that some step count visits, distinct, rising."""
        return self.times.unique()


class NoWaveEquation(nn.Module):
    """In place of the wave equation where no acquisition gives gathers of the model's shape."""

    def forward(self, velocity: Tensor) -> Tensor:
        """Raises a ValueError."""
        raise ValueError("gathers of this model's shape cannot be modelled: it needs a receiver at each cell across")
        return velocity  # what TorchScript takes for the type


class Generator(nn.Module):
    """Draws pairs of velocity map and shot gathers.

    Args:
        model: float model whose U-Net, projectors and decoders become this generator's.
        recipe: ranges and sampler.
    """

    def __init__(self, model: UBDiff, recipe: Recipe) -> None:
        super().__init__()
        sizes, ranges = recipe.sizes, recipe.normalization
        self.unet = model.unet
        self.velocity_projector = model.velocity_projector
        self.velocity_decoder = model.velocity_decoder
        self.seismic_projector = model.seismic_projector
        self.seismic_decoder = model.seismic_decoder
        self.sampler = Sampler(sizes.diffusion_steps, sizes.objective, recipe.export, recipe.distilled)
        acquisition = acquisition_for(VELOCITY_SHAPE, (sizes.sources, sizes.seismic_samples, sizes.receivers))
        self.wave = WaveEquation(**asdict(acquisition)) if acquisition else NoWaveEquation()
        self.latent_length: int = sizes.encoder_dim
        self.normalization: list[float] = ranges.to_list()
        self.velocity_half: float = 0.5 * (ranges.velocity_max - ranges.velocity_min)
        self.velocity_middle: float = 0.5 * (ranges.velocity_max + ranges.velocity_min)
        self.log_half: float = 0.5 * (ranges.log_max - ranges.log_min)
        self.log_middle: float = 0.5 * (ranges.log_max + ranges.log_min)

    def forward(self, batch_size: int = 1, steps: int = 0) -> tuple[Tensor, Tensor]:
        """Draw ``batch_size`` pairs: velocity (B, 1, 70, 70) in m/s, seismic (B, S, T, R) amplitude.

        ``steps`` is one of the offered step counts; 0 takes the default.
        """
        count = steps if steps > 0 else self.sampler.steps[0]
        x_T = torch.randn([batch_size, 1, self.latent_length], device=self.sampler.coefficients.device)
        step_noise = torch.randn([count - 1, batch_size, 1, self.latent_length], device=x_T.device)
        return self.decode(self.sample(x_T, step_noise, count))

    @torch.jit.export
    def simulate(self, batch_size: int = 1, steps: int = 0) -> tuple[Tensor, Tensor]:
        """Draw as ``forward`` does; the gathers are what the wave equation gives for the maps, not the decoder's."""
        count = steps if steps > 0 else self.sampler.steps[0]
        x_T = torch.randn([batch_size, 1, self.latent_length], device=self.sampler.coefficients.device)
        step_noise = torch.randn([count - 1, batch_size, 1, self.latent_length], device=x_T.device)
        velocity = self.decode_velocity(self.sample(x_T, step_noise, count))
        return velocity, self.gathers(velocity)

    @torch.jit.export
    def gathers(self, velocity: Tensor) -> Tensor:
        """Maps (B, 1, 70, 70) in m/s -> the shot gathers (B, S, T, R) that the wave equation gives for them."""
        return self.wave(velocity)

    @torch.jit.export
    def sample(self, x_T: Tensor, step_noise: Tensor, steps: int) -> Tensor:
        """Latents (B, 1, L) from noise.

        Args:
            x_T: (B, 1, L), standard normal.
            step_noise: (steps-1, B, 1, L), used in order; deterministic solvers ignore it.
            steps: one of the offered step counts; 0 takes the default.
        """
        count = steps if steps > 0 else self.sampler.steps[0]
        first = self.sampler(count)
        if self.sampler.stochastic and step_noise.size(0) != count - 1:
            raise ValueError("step_noise must hold steps-1 draws, one for each step but the last")
        x = x_T
        previous = torch.zeros_like(x)
        for i in range(count):
            c = self.sampler.coefficients[first + i]
            time = self.sampler.times[first + i].expand(x.size(0))
            x0 = (c[0] * x + c[1] * self.unet(x, time)).clamp(-1.0, 1.0)
            x = c[2] * x + c[3] * x0 + c[4] * previous
            if self.sampler.stochastic and i < count - 1:
                x = x + c[5] * step_noise[i]
            previous = x0
        return x

    @torch.jit.export
    def decode(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B, 1, L) -> velocity (B, 1, 70, 70) in m/s, seismic (B, S, T, R) amplitude."""
        velocity, seismic = self.decode_normalised(latent)
        log = seismic * self.log_half + self.log_middle
        amplitude = log.abs().expm1_().copysign_(log)  # in place: fresh memory costs more than the arithmetic
        return velocity * self.velocity_half + self.velocity_middle, amplitude

    @torch.jit.export
    def decode_velocity(self, latent: Tensor) -> Tensor:
        """Latents (B, 1, L) -> the velocity of ``decode`` alone."""
        velocity = self.velocity_decoder(self.velocity_projector(latent.flatten(1)))
        return velocity * self.velocity_half + self.velocity_middle

    @torch.jit.export
    def decode_normalised(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B, 1, L) -> velocity in [-1, 1] and the gather on its logarithmic scale."""
        z = latent.flatten(1)
        velocity = self.velocity_decoder(self.velocity_projector(z))
        return velocity, self.seismic_decoder(self.seismic_projector(z))


assert COLUMNS.index("from_noise") == 5  # the order that ``sample`` counts on


def part_of(name: str) -> str:
    """The part that a module or tensor of the generator belongs to; empty for the sampler's."""
    top = name.split(".")[0]
    return next((part for part, tops in DEPLOYED.items() if top in tops), "")


def deployable(model: UBDiff, recipe: Recipe, keep_model: bool = True) -> Generator:
    """The generator of a float model, rewritten as ``recipe.quant`` says, in evaluation mode.

    The time MLPs stay: they are trained; the export tabulates them.

    Args:
        model: with its weights.
        recipe: of the generator.
        keep_model: leave ``model`` as it is; otherwise its modules become the generator's.
    """
    quant = recipe.quant
    source = model if not keep_model else copy.deepcopy(model, {id(model.encoder): None})
    generator = Generator(source, recipe)
    rewrites.drop_unused(generator.unet, generator.seismic_decoder)
    rewrite = rewrites.fold_batchnorms if quant.fold_batchnorm else rewrites.freeze_batchnorms
    rewrite(generator)
    rewrites.replace_tanh(generator)
    if quant.convert_conv1d:
        rewrites.convert_conv1d(generator.unet)
    if quant.convert_transposed:
        rewrites.convert_transposed(generator.velocity_decoder)
    if quant.ten_bit_io:
        add_ten_bit_io(generator, quant)
    return generator.eval()


def shared_copy(generator: Generator) -> Generator:
    """A generator of its own modules over the same memory, without gradients; rewriting it spares the original."""
    memo: dict[int, Tensor] = {id(t): t for t in generator.buffers()}
    memo |= {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in generator.parameters()}
    return copy.deepcopy(generator, memo)


def with_time_tables(generator: Generator) -> Generator:
    """A shared copy whose time MLPs are tables over the sampler's time steps."""
    tabled = shared_copy(generator)
    sampler = tabled.sampler
    rewrites.tabulate_time(tabled.unet, sampler.visited(), sampler.diffusion_steps)
    return tabled


def decoders(generator: Generator) -> nn.ModuleDict:
    """Both decoders behind their projectors, sharing the generator's modules: latents (B, L) -> normalised."""
    return nn.ModuleDict(
        {
            "velocity": nn.Sequential(generator.velocity_projector, generator.velocity_decoder),
            "seismic": nn.Sequential(generator.seismic_projector, generator.seismic_decoder),
        }
    )
