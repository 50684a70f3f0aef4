"""The configuration: every key, its bounds and its help text (the docstring under each field).

Key names are what users type: they are the TOML tables and keys, the ``--set``
paths, and, with ``UBQ_`` and double underscores, the environment variables. Imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from ubq.acquisition import acquisition_for
from ubq.config.runs import is_run_name

Family = Literal[
    "flatvel-a", "flatvel-b", "curvevel-a", "curvevel-b", "flatfault-a", "flatfault-b",
    "curvefault-a", "curvefault-b", "style-a", "style-b",
]  # fmt: skip
Variant = Literal["paper", "fork"]
Backend = Literal["qnnpack", "x86", "fbgemm", "onednn"]
Solver = Literal["ddpm", "ddim", "dpmpp2m"]
DeterministicSolver = Literal["ddim", "dpmpp2m"]
Format = Literal["torchscript", "onnx", "executorch"]
Observer = Literal["moving_average", "percentile", "mse"]
ActivationCheckpointing = Literal["auto", "on", "off"]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
FilePath = Annotated[str, Field(json_schema_extra={"format": "path"})]
"""A file or folder; relative to the working folder, absolute in a run's frozen configuration."""
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""Zero usually means: decided elsewhere, as the key's help says."""
MAP_SHAPE = (1, 70, 70)
"""Of OpenFWI's velocity maps; a receiver stands at each cell across."""
DEFAULT_FAST_STEPS = 10
"""Sampling steps of the fast solvers when ``export.steps`` is 0: more gain nothing (studies/sampling_steps.md)."""


class Contradiction(NamedTuple):
    """Keys that are fine alone and not together. ``keys``: relative to the table, the one to change first."""

    keys: tuple[str, ...]
    allowed: str
    suggestion: str = ""


LONGEST_FOLDER = 200
"""Bytes of a run's name: a file system takes 255, and what is made on the way has a longer one."""
LONGEST_FILE = 80
"""Bytes of the exported files' name: a bundle's archive (ustar) takes 100, with suffixes as ``.decoders.onnx``."""


def _bytes(name: str) -> int:
    return len(name.encode(errors="surrogateescape"))


def refuse(contradictions: list[Contradiction]) -> None:
    """Raise one pydantic error that carries all of ``contradictions`` (``ctx["contradictions"]``), if any."""
    if contradictions:
        text = "; ".join(f"{c.keys[0]}: {c.allowed}" for c in contradictions)
        raise PydanticCustomError("contradiction", "{text}", {"text": text, "contradictions": contradictions})


class Table(BaseModel):
    """A TOML table: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )


class RunConfig(Table):
    """Where a run lives and how often it is saved."""

    name: str = ""
    """Name of the run's folder; empty: the preset's name."""
    dir: FilePath = "runs"
    """Folder that holds the runs."""
    checkpoint_steps: Count = 500
    """Save a checkpoint every so many training steps; 0: only by time and at the end of a stage."""
    checkpoint_minutes: Annotated[float, Field(ge=0)] = 15.0
    """Save a checkpoint when the last one is this old, minutes; 0: only by steps."""
    keep_checkpoints: Annotated[int, Field(ge=2)] = 2
    """Checkpoints kept for each stage; older ones are removed."""
    log_every: Positive = 10
    """Write a row to metrics.jsonl every so many training steps."""
    activation_checkpointing: ActivationCheckpointing = "auto"
    """Compute the U-Net's blocks again for the backward pass instead of keeping what they computed, with equal results.

    auto: where a step would not fit the memory otherwise.
    """


class DataConfig(Table):
    """The velocity maps and the shot gathers that belong to them."""

    family: Family = "curvefault-a"
    """OpenFWI data set: decides file names, the official split and the normalisation ranges."""
    train_seismic: FilePath = ""
    """Folder or file of training shot gathers, (N, 5, 1000, 70) per file; empty: beside train_velocity."""
    train_velocity: FilePath = ""
    """Folder or file of training velocity maps, (N, 1, 70, 70) per file, m/s.

    empty: synth_samples synthesised pairs, or with 0 of those the data set where it lies in the working folder.
    """
    val_seismic: FilePath = ""
    """Held-out shot gathers; empty: beside val_velocity."""
    val_velocity: FilePath = ""
    """Held-out velocity maps; empty: the official file numbers of the training folder, or a fraction."""
    normalization: Literal["auto", "openfwi", "fork"] | tuple[float, float, float, float] = "auto"
    """Ranges to scale by: OpenFWI's, the upstream fork's, or [amplitude min, max, velocity min, max].

    auto: those that an imported checkpoint was trained with, else OpenFWI's.
    """
    synth_samples: Count = 1024
    """How many pairs to synthesise when no data folder is given; 0: none, the run asks for data."""
    synth_maps: Count = 0
    """Maps without gathers to synthesise beside them; the autoencoder and the U-Net train on both."""
    val_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of samples held out when the official split leaves a side empty."""
    min_val_samples: Positive = 250
    """Held-out maps wanted for the distribution distance; at most half of the data is taken for it."""
    workers: Count = 0
    """Processes for forward modelling; 0: one for each core."""

    @model_validator(mode="after")
    def _pairs_and_ranges(self) -> DataConfig:
        problems: list[Contradiction] = []
        if self.train_seismic and not self.train_velocity:
            # Without velocity maps pairs are synthesised; given gathers must not be passed over in silence.
            text = "train_velocity beside train_seismic (the same folder where it holds both)"
            problems.append(Contradiction(("train_seismic", "train_velocity"), text))
        for held_out in ("val_velocity", "val_seismic"):
            if getattr(self, held_out) and not self.train_velocity:
                problems.append(Contradiction((held_out, "train_velocity"), "held-out data only beside train_velocity"))
        if isinstance(self.normalization, tuple):
            low, high, slow, fast = self.normalization
            if not (low < high and 0 < slow < fast):
                text = "[amplitude min, amplitude max, velocity min, velocity max], each minimum below its maximum"
                problems.append(Contradiction(("normalization",), text))
        refuse(problems)
        return self


class ModelConfig(Table):
    """Sizes of the UB-Diff model. A checkpoint that is imported overrides them with its own."""

    variant: Variant = "paper"
    """paper: time-conditioned U-Net blocks and RMSNorm. fork: no time conditioning, GroupNorm."""
    encoder_dim: Positive = 512
    """Length of the latent vector."""
    unet_dim: Count = 0
    """Base channels of the U-Net; 0: the same as encoder_dim."""
    dim_mults: Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1, max_length=8)] = (
        1,
        2,
        4,
        8,
    )
    """Channel multipliers of the U-Net's levels."""
    norm_groups: Positive = 8
    """Groups of the GroupNorm in the U-Net's residual blocks."""
    attention_heads: Positive = 4
    """Heads of the U-Net's attention layers."""
    attention_dim_head: Positive = 32
    """Channels of each attention head of the U-Net."""
    diffusion_steps: Annotated[int, Field(ge=2)] = 256
    """Time steps of the training diffusion process."""
    objective: Literal["v", "noise", "x0"] = "v"
    """What the U-Net predicts."""
    encoder_dims: tuple[Positive, Positive, Positive, Positive] = (32, 64, 128, 256)
    """Channels of the encoder's four widths before the latent."""
    velocity_latent: Positive = 128
    """Channels the velocity projector feeds to the velocity decoder."""
    velocity_dims: tuple[Positive, Positive, Positive, Positive, Positive] = (32, 64, 128, 256, 512)
    """Channels of the velocity decoder, from the output to the input."""
    seismic_latent: Positive = 640
    """Width of the seismic decoder's transformer; its head has this x 350,000 weights."""
    seismic_depth: Positive = 2
    """Transformer blocks of the seismic decoder."""
    seismic_heads: Positive = 8
    """Attention heads of the seismic decoder."""
    seismic_mlp_ratio: Positive = 5
    """Width of the seismic decoder's MLP over its transformer width."""
    sources: Positive = 5
    """Shots of a gather."""
    seismic_samples: Positive = 1000
    """Time samples of a gather, 1 ms each."""
    receivers: Positive = 70
    """Receivers of a gather, 10 m apart."""

    @model_validator(mode="after")
    def _widths_divide(self) -> ModelConfig:
        problems: list[Contradiction] = []
        unet = self.unet_dim or self.encoder_dim
        if any(unet * m % self.norm_groups for m in (1, *self.dim_mults)):
            text = f"multiples of norm_groups ({self.norm_groups}) for every width of the U-Net"
            key = "unet_dim" if self.unet_dim else "encoder_dim"
            problems.append(Contradiction((key, "norm_groups", "dim_mults"), text))
        if self.seismic_latent % self.seismic_heads:
            text = f"a multiple of seismic_heads ({self.seismic_heads})"
            problems.append(Contradiction(("seismic_latent", "seismic_heads"), text))
        halvings = 2 ** (len(self.dim_mults) - 1)
        if self.encoder_dim % halvings:
            text = f"a multiple of {halvings}: each further level of dim_mults halves the latent"
            problems.append(Contradiction(("encoder_dim", "dim_mults"), text))
        refuse(problems)
        return self


class PretrainedConfig(Table):
    """A checkpoint that the user already has."""

    path: FilePath = ""
    """Checkpoint file to import instead of pretraining; empty: pretrain."""
    weights: Literal["ema", "raw"] = "ema"
    """Which weights of the checkpoint to use where it holds both."""
    decoder_path: FilePath = ""
    """Decoders to use instead: ``final_qat_decoders.pt`` of another run, as it is, or an upstream checkpoint."""


class UpdatesConfig(Table):
    """How weights are updated, whatever the number of updates follows from."""

    batch_size: Positive = 16
    """Samples of one optimiser step."""
    accumulate: Positive = 1
    """Parts a batch is computed in, to fit memory; the result is that of the whole batch."""
    lr: Annotated[float, Field(gt=0)] = 1e-4
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Weight decay, decoupled from the gradient."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate over the steps."""
    lr_warmup: Fraction = 0.02
    """Share of the steps over which the learning rate rises to its peak."""
    grad_clip: Annotated[float, Field(ge=0)] = 1.0
    """Largest gradient norm; 0: no clipping."""
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.995
    """Decay of the exponential moving average of the weights, which is what is validated and exported."""
    amp: bool = True
    """Train in bfloat16 where that is faster: on a GPU, and on a CPU that has it the autoencoder and wide U-Nets."""
    validate_every: Count = 0
    """Validate every so many steps; 0: ten times in the stage."""


class TrainingConfig(UpdatesConfig):
    """How one training stage trains. Give epochs or steps; steps wins."""

    epochs: Count = 100
    """Passes over the training data."""
    steps: Count = 0
    """Training steps; 0: use epochs."""


class ConvolutionalTraining(TrainingConfig):
    """A stage without a matrix that is too large to be made orthogonal at every step, as the seismic head's is."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: steps of weight matrices and kernels are made orthogonal, the rest is AdamW's; learns in fewer steps."""


class ReconstructionTraining(TrainingConfig):
    """A stage that trains a decoder."""

    l1_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the mean absolute error in the loss."""
    l2_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the mean squared error in the loss."""


class GatherTraining(ReconstructionTraining):
    """A stage that trains the seismic decoder."""

    amplitude_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the squared error of physical amplitudes times their time, where gathers are compared; 0: off."""


class VelocityTraining(ReconstructionTraining):
    """A stage that trains the velocity decoder."""

    patch_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the patches' loss, which keeps interfaces sharp; 0: upstream's recipe."""


class BatchStatisticsTraining(ReconstructionTraining):
    """A stage whose model has BatchNorm layers that see one value a channel and sample."""

    batch_size: Annotated[int, Field(ge=2, le=2**31 - 1)] = 16
    """Samples of one optimiser step."""
    freeze_statistics: Fraction = 1.0
    """Share of the steps after which BatchNorm uses its running statistics, not the batch's; 1: upstream's recipe."""


class AutoencoderTraining(BatchStatisticsTraining, VelocityTraining, ConvolutionalTraining):
    """Encoder and velocity decoder."""

    smooth_upsampling: bool = True
    """Keep kernels that upsample among those that interpolate, the last levels' others blind to detail of two cells.

    So no lattice comes out; off: upstream's way.
    """


class SeismicTraining(BatchStatisticsTraining, GatherTraining):
    """Seismic decoder, from the latents of the frozen encoder."""

    modelled_pairs: Count = 0
    """Pairs to model beside the real ones, of decoded maps; half of the latents are the encoder's, half sampled.

    A gather is what the wave equation gives for the map that the velocity decoder makes of a latent. Pretraining and
    quantisation-aware training of the seismic decoder learn from both kinds.
    """
    fit_head: bool = True
    """Start the head from the least-squares fit to the training gathers instead of random weights."""


class DiffusionTraining(ConvolutionalTraining):
    """Diffusion U-Net over the latents."""

    loss_weight: Literal["variant", "uniform"] = "variant"
    """Weights of the time steps: the variant's own (paper: by signal-to-noise ratio), or all equal."""
    lr: Annotated[float, Field(gt=0)] = 8e-5
    """Peak learning rate."""


class TrainConfig(Table):
    """The pretraining stages."""

    autoencoder: AutoencoderTraining = AutoencoderTraining()
    seismic: SeismicTraining = SeismicTraining()
    diffusion: DiffusionTraining = DiffusionTraining()


MOST_DISTILLED_STEPS = 4
"""Beyond them a solver alone is as good (bench/README.md)."""


class DistillConfig(UpdatesConfig):
    """Distillation of the U-Net to a few sampling steps, before it is quantised."""

    steps: Annotated[int, Field(ge=0, le=MOST_DISTILLED_STEPS)] = 0
    """Sampling steps that the U-Net learns to draw a latent in, the only ones that its files offer; 0: off."""
    solver: DeterministicSolver = "dpmpp2m"
    """Sampler of the teacher, the U-Net as it was trained; from one noise it must end in one latent."""
    teacher_steps: Positive = 10
    """Sampling steps of the teacher."""
    trajectories: Positive = 2048
    """Noises that the teacher is followed from; where it ends is drawn once and kept."""
    updates: Positive = 600
    """Training steps."""
    batch_size: Positive = 32
    """Noises of one optimiser step."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: steps of weight matrices and kernels are made orthogonal, the rest is AdamW's; learns in fewer steps."""

    @property
    def training(self) -> ConvolutionalTraining:
        """The same, as the training loop reads it."""
        shared = self.model_dump(include=set(UpdatesConfig.model_fields))
        return ConvolutionalTraining(**shared, steps=self.updates, optimizer=self.optimizer)


class QatTraining(VelocityTraining, GatherTraining):
    """One quantisation-aware training stage."""

    epochs: Count = 50
    """Passes over the training data; 0: post-training quantisation, calibration only."""
    lr: Annotated[float, Field(gt=0)] = 5e-5
    """Peak learning rate."""
    warmup: tuple[Fraction, Fraction, Fraction] = (0.05, 0.1, 0.5)
    """Shares of the steps at which weights, then activations are fake-quantised, then observers frozen."""
    calibration_batches: Positive = 16
    """Batches the observers see before training and again on the final weights."""

    @model_validator(mode="after")
    def _warmup_rises(self) -> QatTraining:
        if list(self.warmup) != sorted(self.warmup):
            refuse([Contradiction(("warmup",), "shares that do not fall: [weights, activations, frozen observers]")])
        return self


class QatDiffusionTraining(QatTraining, ConvolutionalTraining):
    """Quantisation-aware training of the diffusion U-Net."""

    distillation: Fraction = 0.0
    """Share of the float U-Net's own outputs in what the quantised one is trained towards; 0: the data alone.

    Of a distilled U-Net: of its own ends in those of its teacher.
    """


QAT_PARTS = ("decoders", "diffusion")
"""Sub-tables of [qat]."""


def qat_heirs(path: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The keys that a key also sets: one of [qat] that its sub-tables share sets theirs."""
    if len(path) != 2 or path[0] != "qat" or path[1] not in QatTraining.model_fields:
        return []
    return [("qat", part, path[1]) for part in QAT_PARTS]


class QatConfig(QatTraining):
    """Quantisation-aware training of both stages; the two tables below override it."""

    decoders: QatTraining = QatTraining()
    """Overrides for the two decoders; a key left out here takes the value of [qat]."""
    diffusion: QatDiffusionTraining = QatDiffusionTraining()
    """Overrides for the diffusion U-Net; a key left out here takes the value of [qat]."""

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, values: object) -> object:
        """A key of [qat] is the default of both sub-tables."""
        if not isinstance(values, dict):
            return values
        merged = dict(values)
        for key, value in values.items():
            for _qat, part, _key in qat_heirs(("qat", key)):
                part_values = merged.get(part, {})
                if isinstance(part_values, dict):
                    merged[part] = {key: value, **part_values}
        return merged


class QuantConfig(Table):
    """What is quantised and how."""

    backend: Backend = "qnnpack"
    """Integer engine the file is made and judged for; qnnpack is the Raspberry Pi's."""
    scheme: Literal["default", "aggressive"] = "aggressive"
    """aggressive: one scale for each output channel of a weight, observer of choice. default: one scale a tensor."""
    convert_conv1d: bool = True
    """Rewrite the U-Net's Conv1d layers as Conv2d, so that integer kernels exist for them."""
    fold_batchnorm: bool = True
    """Fold every BatchNorm into the layer before it."""
    convert_transposed: bool = True
    """Rewrite transposed convolutions as Linear or convolution + PixelShuffle, which have integer kernels."""
    ten_bit_io: bool = True
    """Four offset 8-bit channels for the U-Net's input and output and for the map: grids of 10 bits."""
    time_tables: bool = True
    """Replace the time MLPs by tables over the sampler's steps."""
    velocity: bool = True
    """Quantise the velocity decoder."""
    seismic: bool = True
    """Quantise the seismic decoder."""
    diffusion: bool = True
    """Quantise the diffusion U-Net."""
    keep_float: tuple[str, ...] = ()
    """Names or glob patterns of layers that stay in float."""
    observer: Observer = "moving_average"
    """How activation ranges are chosen in the aggressive scheme; the default scheme uses moving_average."""
    decoder_observer: Literal["same"] | Observer = "same"
    """The decoders' observer, where it is another than the U-Net's; same: as observer says."""
    averaging_constant: Annotated[float, Field(gt=0.0, le=1.0)] = 0.05
    """Weight of a new batch in the moving-average observer."""
    percentile: Annotated[float, Field(gt=0.5, le=1.0)] = 0.9999
    """Share of the activations inside the range of the percentile observer."""
    max_quality_loss: Annotated[float, Field(ge=0.0)] = 0.0
    """Largest relative L2 the quantised U-Net or a decoder may lose; layers go back to float until it holds; 0: off."""

    @model_validator(mode="before")
    @classmethod
    def _older_names(cls, values: Any) -> Any:
        """Runs and QAT checkpoints of 0.1.0 spell ``ten_bit_io`` as ``fine_edges``."""
        if isinstance(values, dict) and "fine_edges" in values and "ten_bit_io" not in values:
            return {"ten_bit_io" if key == "fine_edges" else key: value for key, value in values.items()}
        return values

    @model_validator(mode="after")
    def _something_is_quantised(self) -> QuantConfig:
        if not (self.velocity or self.seismic or self.diffusion):
            text = "at least one of velocity, seismic and diffusion true"
            fix = "for a float file: ubq export CHECKPOINT --no-quantize"
            refuse([Contradiction(("diffusion", "velocity", "seismic"), text, fix)])
        return self


class ExportConfig(Table):
    """The files for the Pi."""

    formats: tuple[Format, ...] = ("torchscript", "onnx")
    """Files to write: onnx is the fast one on a Raspberry Pi, torchscript the one that holds the sampling loop too."""
    solver: Literal["auto", "ddpm", "ddim", "dpmpp2m"] = "auto"
    """Sampler inside the file; auto: ddim of a distilled U-Net, else dpmpp2m."""
    steps: Count = 0
    """Sampling steps when the caller names none; 0: those of distill.steps, all steps for ddpm, else 10."""
    step_choices: tuple[Positive, ...] = ()
    """Further step counts the file offers at run time."""
    name: str = ""
    """Name of the exported files; empty: the preset's name."""

    @property
    def sampler(self) -> Solver:
        """The solver, of a U-Net that is not distilled where the choice is left open."""
        return "dpmpp2m" if self.solver == "auto" else self.solver

    def default_steps(self, trained: int) -> int:
        """Sampling steps when the caller names none, of a model with so many diffusion steps."""
        return self.steps or (trained if self.solver == "ddpm" else min(DEFAULT_FAST_STEPS, trained))

    def distilled(self, steps: int) -> ExportConfig:
        """The same for a U-Net that has learnt to sample in exactly so many steps."""
        return self.model_copy(update={"solver": "ddim", "steps": steps, "step_choices": ()})

    @model_validator(mode="after")
    def _torchscript_always(self) -> ExportConfig:
        problems: list[Contradiction] = []
        if "torchscript" not in self.formats:
            problems.append(Contradiction(("formats",), 'an array that holds "torchscript"; the others come beside it'))
        if len(set(self.formats)) < len(self.formats):
            problems.append(Contradiction(("formats",), "each format once"))
        if "/" in self.name or self.name.startswith("."):
            problems.append(Contradiction(("name",), "a file name without a folder"))
        refuse(problems)
        return self


Sharding = Literal["off", "auto", "on"]


class DistributedConfig(Table):
    """Several processes that train one model together."""

    nproc: Positive = 1
    """Processes on each host: one for each GPU, or to share the cores; they share ``threads``."""
    restarts: Count = 3
    """How often the processes are started again, from the last checkpoint, after one of them died."""
    shard: Sharding = "auto"
    """Spread the U-Net, its average and optimiser over the processes: each holds a part, and a block whole only while
    it computes it. auto: on GPUs that would be too small otherwise, even with activation checkpointing."""


class Config(Table):
    """A whole run."""

    extends: str | tuple[str, ...] = ""
    """Preset this file builds on, or several, each over the ones before; a value with / or .toml is a file."""
    description: str = ""
    """One line about what this configuration is for; lists of presets show it."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of everything random."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """Device to train on: auto, cpu, cuda or cuda:N."""
    threads: Count = 0
    """CPU threads; part of the run, since another count gives other last bits. 0: all cores, fixed at the start."""
    tracking: Literal["none", "tensorboard", "wandb"] = "none"
    """Experiment tracker that also gets the metrics; needs the extra of its name, keeps its files with the run."""
    run: RunConfig = RunConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    pretrained: PretrainedConfig = PretrainedConfig()
    train: TrainConfig = TrainConfig()
    distill: DistillConfig = DistillConfig()
    qat: QatConfig = QatConfig()
    quant: QuantConfig = QuantConfig()
    export: ExportConfig = ExportConfig()
    distributed: DistributedConfig = DistributedConfig()

    @property
    def sampling(self) -> ExportConfig:
        """``export`` with the solver and the steps that the U-Net is distilled to, if it is."""
        return self.export.distilled(self.distill.steps) if self.distill.steps else self.export

    @property
    def sampling_steps(self) -> int:
        """Sampling steps of the exported file when the caller names none."""
        return self.sampling.default_steps(self.model.diffusion_steps)

    @model_validator(mode="after")
    def _steps_were_trained(self) -> Config:
        problems: list[Contradiction] = []
        trained = self.model.diffusion_steps
        ancestral = self.export.solver == "ddpm"
        for key, counts in (("steps", (self.export.steps,)), ("step_choices", self.export.step_choices)):
            keys = (f"export.{key}", "export.solver", "model.diffusion_steps")
            if ancestral and any(n not in (0, trained) for n in counts):
                text = f"{trained}, all steps of training, with solver ddpm"
                problems.append(Contradiction(keys, text, 'fewer steps: export.solver = "dpmpp2m"'))
            elif any(n > trained for n in counts):
                problems.append(Contradiction(keys, f"at most model.diffusion_steps ({trained})"))
        if self.run.name and not is_run_name(self.run.name):
            problems.append(Contradiction(("run.name",), "a folder name without a path; the folder above is run.dir"))
        if _bytes(self.run.name) > LONGEST_FOLDER:
            problems.append(Contradiction(("run.name",), f"at most {LONGEST_FOLDER} bytes"))
        elif _bytes(self.export.name) > LONGEST_FILE:
            problems.append(Contradiction(("export.name",), f"at most {LONGEST_FILE} bytes, since suffixes follow"))
        elif not self.export.name and _bytes(self.run.name) > LONGEST_FILE:
            text = f"at most {LONGEST_FILE} bytes where the exported files have the run's name"
            problems.append(Contradiction(("run.name", "export.name"), text, "export.name gives them another"))
        refuse([*problems, *self._against_distillation(), *self._against_modelling()])
        return self

    def _against_modelling(self) -> list[Contradiction]:
        model = self.model
        gathers = (model.sources, model.seismic_samples, model.receivers)
        if not self.train.seismic.modelled_pairs or acquisition_for(MAP_SHAPE, gathers):
            return []
        text = (
            f"0 unless model.receivers is {MAP_SHAPE[-1]} and model.sources at most that: nothing models such gathers"
        )
        return [Contradiction(("train.seismic.modelled_pairs", "model.receivers", "model.sources"), text)]

    def _against_distillation(self) -> list[Contradiction]:
        steps, export = self.distill.steps, self.export
        if not steps:
            return []
        problems: list[Contradiction] = []
        off = "without distillation: distill.steps = 0"
        if export.solver not in ("auto", "ddim"):
            text = f'"auto" with distill.steps = {steps}: a distilled U-Net takes steps of ddim'
            problems.append(Contradiction(("export.solver", "distill.steps"), text, off))
        if export.steps not in (0, steps):
            text = f"0 or {steps}: the U-Net is distilled to distill.steps alone"
            problems.append(Contradiction(("export.steps", "distill.steps"), text, off))
        if set(export.step_choices) - {steps}:
            text = "an empty array: a distilled U-Net offers distill.steps alone"
            problems.append(Contradiction(("export.step_choices", "distill.steps"), text, off))
        if not steps < self.distill.teacher_steps <= self.model.diffusion_steps:
            text = f"more than distill.steps ({steps}), at most model.diffusion_steps ({self.model.diffusion_steps})"
            problems.append(Contradiction(("distill.teacher_steps", "distill.steps", "model.diffusion_steps"), text))
        if self.model.objective == "noise":
            text = '"v" or "x0" with distill.steps: from pure noise a predicted noise says nothing of the latent'
            problems.append(Contradiction(("model.objective", "distill.steps"), text, off))
        return problems
