"""Where everything of a run lies on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunPaths:
    """Paths inside one run's folder."""

    root: Path

    @property
    def config(self) -> Path:
        """The frozen, resolved configuration."""
        return self.root / "config.toml"

    @property
    def sources(self) -> Path:
        """Where each value of the configuration came from."""
        return self.root / "sources.json"

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def log(self) -> Path:
        return self.root / "run.log"

    @property
    def data(self) -> Path:
        """``dataset.json`` and, where nothing was given, the synthesised pairs."""
        return self.root / "data"

    @property
    def modelled(self) -> Path:
        """Pairs modelled for the seismic decoder: ``modelN.npy``, ``dataN.npy`` and their ``latents.pt``."""
        return self.data / "modelled"

    @property
    def latents(self) -> Path:
        """Latents of the frozen encoder, computed once: ``train`` and ``val``, each (N, L)."""
        return self.checkpoints("latents") / "latents.pt"

    @property
    def exported(self) -> Path:
        return self.root / "exported_models"

    def checkpoints(self, stage: str) -> Path:
        """Folder of one stage's checkpoints and final files; ``qat-decoders`` lies in ``qat_decoders``."""
        return self.root / "checkpoints" / stage.replace("-", "_")
