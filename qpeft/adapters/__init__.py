"""Adapters: Hugging Face PEFT tuners whose weights a circuit generates. Importing this registers them with peft."""

from qpeft.adapters.config import PRESETS, QPAConfig
from qpeft.adapters.export import Exported, export_lora
from qpeft.adapters.lora import QPALoraBank, QPAModel

__all__ = ["PRESETS", "Exported", "QPAConfig", "QPALoraBank", "QPAModel", "export_lora"]
