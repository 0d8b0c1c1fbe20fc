"""Adapters: Hugging Face PEFT tuners whose weights a circuit generates, and those they are compared with.

Importing this registers them with peft.
"""

from qpeft.adapters.additive_prefix import AdditivePrefixConfig
from qpeft.adapters.bank import QPABank
from qpeft.adapters.config import GeneratedConfig, QPAConfig
from qpeft.adapters.export import Exported, export_adapter, export_lora, export_merged, export_prefix, export_stored
from qpeft.adapters.feedforward import FeedForwardConfig, HoulsbyConfig, PfeifferConfig
from qpeft.adapters.generated_layers import QPAAdditivePrefixConfig, QPAFeedForwardConfig
from qpeft.adapters.lora import QPAModel
from qpeft.adapters.prefix import QPAPrefixConfig
from qpeft.adapters.quantum_peft import QuantumPEFTConfig, QuantumPEFTModel
from qpeft.adapters.sora import SoRAConfig
from qpeft.generator_settings import PRESETS

__all__ = [
    "PRESETS", "AdditivePrefixConfig", "Exported", "FeedForwardConfig", "GeneratedConfig", "HoulsbyConfig",
    "PfeifferConfig", "QPAAdditivePrefixConfig", "QPABank", "QPAConfig", "QPAFeedForwardConfig", "QPAModel",
    "QPAPrefixConfig", "QuantumPEFTConfig", "QuantumPEFTModel", "SoRAConfig", "export_adapter", "export_lora",
    "export_merged", "export_prefix", "export_stored",
]  # fmt: skip
