"""An exported ExecuTorch file in use; needs executorch, which brings torch."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ubq.errors import UsageError
from ubq.i18n import gettext as _
from ubq.runtime.generator import Array, SamplerTables, SteppingGenerator

UNET_METHOD, DECODERS_METHOD, FACTS_METHOD, TABLES_METHOD = "unet", "decoders", "ubq_facts", "ubq_tables"
"""Methods of the program: one U-Net step, the decoders, and two constants, JSON as bytes."""


class ExecutorchGenerator(SteppingGenerator):
    """Runs the program's methods, which take one sample at a time; the heavy work is XNNPACK's."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        logging.disable(logging.WARNING)  # what its import remarks on, a user cannot act on
        try:
            from executorch.runtime import Runtime
        except ImportError as error:
            raise UsageError(
                _("not installed here: {modules}").format(modules="executorch"), "pip install executorch"
            ) from error
        finally:
            logging.disable(logging.NOTSET)
        if threads:
            torch.set_num_threads(threads)
        try:
            self._program = Runtime.get().load_program(path.read_bytes())
            facts, tables = (
                _text(self._program.load_method(name).execute([])[0]) for name in (FACTS_METHOD, TABLES_METHOD)
            )
            super().__init__(json.loads(facts), SamplerTables.from_json(tables))
            self._step, self._decode = (self._program.load_method(name) for name in (UNET_METHOD, DECODERS_METHOD))
        except (RuntimeError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise UsageError(
                _("{path} is not a model that ubq exported").format(path=path), _("give the .pte of exported_models")
            ) from error

    def unet(self, x: Array, time: NDArray[np.int64]) -> Array:
        rows = zip(torch.from_numpy(np.ascontiguousarray(x)).split(1), torch.from_numpy(time).split(1), strict=True)
        return np.concatenate([self._step.execute(list(row))[0].numpy().copy() for row in rows])

    def decode_normalised(self, latent: Array) -> tuple[Array, Array]:
        rows = torch.from_numpy(np.ascontiguousarray(latent)).split(1)
        pairs = [[part.numpy().copy() for part in self._decode.execute([row])] for row in rows]
        velocity, seismic = zip(*pairs, strict=True)
        return np.concatenate(velocity), np.concatenate(seismic)


def _text(value: torch.Tensor) -> str:
    return bytes(value.numpy()).decode()
