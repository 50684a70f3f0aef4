"""The stages in the order in which they run."""

from ubq.stages.autoencoder import TrainAutoencoder
from ubq.stages.base import Stage
from ubq.stages.diffusion import TrainDiffusion
from ubq.stages.distill import Distill
from ubq.stages.export import Export
from ubq.stages.importing import Import
from ubq.stages.model_pairs import ModelPairs
from ubq.stages.prepare import Prepare
from ubq.stages.qat_decoders import QatDecoders
from ubq.stages.qat_diffusion import QatDiffusion
from ubq.stages.seismic import TrainSeismic
from ubq.stages.verify import Verify

PIPELINE: tuple[Stage, ...] = (
    Prepare(),
    Import(),
    TrainAutoencoder(),
    TrainDiffusion(),
    Distill(),
    ModelPairs(),
    TrainSeismic(),
    QatDecoders(),
    QatDiffusion(),
    Export(),
    Verify(),
)
"""Every stage, in the order in which they run."""
