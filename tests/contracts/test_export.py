"""What exports take for granted about peft's and transformers' files and layers."""

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.variants import DoraLinearVariant
from safetensors.torch import load_file, save_file

from qpeft.adapters.peft_internals.adalora import adalora_factors
from tests.tiny_models import llama, logits, moved

TARGETS = {"target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}


@torch.no_grad()
def test_adaloras_update_is_the_product_of_its_factors():
    config = AdaLoraConfig(init_r=4, target_r=2, lora_alpha=6, tinit=1, tfinal=1, total_step=9, **TARGETS)
    model = moved(get_peft_model(llama(), config))
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    layer.lora_E["default"][1] = 0
    A, B = adalora_factors(layer, "default")
    assert A.shape == (3, 32) and B.shape == (32, 3)
    torch.testing.assert_close(B @ A, layer.get_delta_weight("default"))
    layer.lora_E["default"].zero_()
    A, B = adalora_factors(layer, "default")
    assert A.shape == (1, 32) and not B.any() and not layer.get_delta_weight("default").any()


def dora():
    torch.manual_seed(0)
    return moved(get_peft_model(llama(), LoraConfig(use_dora=True, r=2, **TARGETS)))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_who_reads_which_name_of_doras_magnitudes(tmp_path):
    """peft writes "lora_magnitude_vector"; transformers reads "lora_magnitude_vector.weight" alone."""
    model = dora()
    for folder, ending in (("peft", ""), ("ours", ".weight")):
        model.save_pretrained(tmp_path / folder)
        path = tmp_path / folder / "adapter_model.safetensors"
        tensors = load_file(path)
        magnitudes = [key for key in tensors if "magnitude" in key]
        assert len(magnitudes) == 4 and all(key.endswith("lora_magnitude_vector") for key in magnitudes)
        for key in magnitudes:
            tensors[key + ending] = tensors.pop(key)
        save_file(tensors, path, metadata={"format": "pt"})
        loaded = PeftModel.from_pretrained(llama(), tmp_path / folder).eval()
        torch.testing.assert_close(logits(loaded), logits(model))
        by_transformers = llama()
        by_transformers.load_adapter(str(tmp_path / folder))
        assert torch.allclose(logits(by_transformers), logits(model), atol=1e-5) == (folder == "ours")


def test_doras_norm_is_that_of_the_scaled_update():
    """Only so may the scale be folded into B: scaling 3 with B, and scaling 1 with 3 B, are the same layer."""
    model, other = dora(), dora()
    for a, b in zip(model.modules(), other.modules(), strict=True):
        if hasattr(a, "lora_variant"):
            assert type(a.lora_variant["default"]) is DoraLinearVariant
            a.scaling["default"], b.scaling["default"] = 3.0, 1.0
            b.lora_B["default"].weight.data *= 3
    torch.testing.assert_close(logits(model), logits(other))
