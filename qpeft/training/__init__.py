"""Training: from a model, a text and settings to an adapter, a report and an exported LoRA."""
