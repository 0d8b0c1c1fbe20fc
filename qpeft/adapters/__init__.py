"""Adapters: Hugging Face PEFT tuners whose weights a circuit generates. Importing this registers them with peft."""

from qpeft.adapters.bank import QPABank
from qpeft.adapters.config import GeneratedConfig, QPAConfig
from qpeft.adapters.export import Exported, export_lora
from qpeft.adapters.lora import QPAModel
from qpeft.generator_settings import PRESETS

__all__ = ["PRESETS", "Exported", "GeneratedConfig", "QPABank", "QPAConfig", "QPAModel", "export_lora"]
