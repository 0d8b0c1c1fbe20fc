"""qpeft: quantum circuits that write the weights adapting a large language model.

`import qpeft` needs only torch and numpy. The names below load their room on first use:

* circuits: `Circuit`, `CircuitBuilder`, `Angle`, `ansatz`, `n_local`, `register_ansatz`
* engines: `get_engine` and `register_engine`; `StatevectorEngine`, `SampledEngine`, `Surrogate`; with their packages
  `AerEngine`, `QiskitSamplerEngine`, `PennyLaneEngine`, `TorchQuantumEngine`
* generator: `QPAGenerator`, `QPASpec`
* adapters (these need transformers and peft): `QPAConfig`, `QPAPrefixConfig`, `QPAFeedForwardConfig`,
  `QuantumPEFTConfig`, `export_adapter`, `export_lora`, `export_merged`; the others are in `qpeft.adapters`
* studies: `gradient_variance`
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import torch  # noqa: F401  (the one heavy import, made here so that later ones are quick)

if TYPE_CHECKING:
    from qpeft.adapters import (
        QPAConfig,
        QPAFeedForwardConfig,
        QPAModel,
        QPAPrefixConfig,
        QuantumPEFTConfig,
        export_adapter,
        export_lora,
        export_merged,
    )
    from qpeft.engines import get_engine, register_engine
    from qpeft.generators import QPAGenerator, QPASpec
    from qpeft.qcircuits import (
        Angle,
        Circuit,
        CircuitBuilder,
        SampledEngine,
        StatevectorEngine,
        Surrogate,
        ansatz,
        n_local,
        register_ansatz,
    )
    from qpeft.qcircuits.aer_engine import AerEngine
    from qpeft.qcircuits.pennylane_engine import PennyLaneEngine
    from qpeft.qcircuits.sampler_engine import QiskitSamplerEngine
    from qpeft.qcircuits.torchquantum_engine import TorchQuantumEngine
    from qpeft.training.trainability import gradient_variance

__version__ = "0.1.0"

_HOMES = {
    "qpeft.qcircuits": (
        "Angle", "Circuit", "CircuitBuilder", "SampledEngine", "StatevectorEngine", "Surrogate", "ansatz", "n_local",
        "register_ansatz",
    ),
    "qpeft.qcircuits.aer_engine": ("AerEngine",),
    "qpeft.qcircuits.pennylane_engine": ("PennyLaneEngine",),
    "qpeft.qcircuits.sampler_engine": ("QiskitSamplerEngine",),
    "qpeft.qcircuits.torchquantum_engine": ("TorchQuantumEngine",),
    "qpeft.engines": ("get_engine", "register_engine"),
    "qpeft.generators": ("QPAGenerator", "QPASpec"),
    "qpeft.training.trainability": ("gradient_variance",),
    "qpeft.adapters": (
        "QPAConfig", "QPAFeedForwardConfig", "QPAModel", "QPAPrefixConfig", "QuantumPEFTConfig", "export_adapter",
        "export_lora", "export_merged",
    ),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AerEngine", "Angle", "Circuit", "CircuitBuilder", "PennyLaneEngine", "QPAConfig", "QPAFeedForwardConfig",
    "QPAGenerator", "QPAModel", "QPAPrefixConfig", "QPASpec", "QiskitSamplerEngine", "QuantumPEFTConfig",
    "SampledEngine", "StatevectorEngine", "Surrogate", "TorchQuantumEngine", "ansatz", "export_adapter", "export_lora",
    "export_merged", "get_engine", "gradient_variance", "n_local", "register_ansatz", "register_engine",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'qpeft' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
