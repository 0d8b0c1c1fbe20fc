"""Adapters of a base in four bits (bitsandbytes), which is optional and runs on the CPU too."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from safetensors.torch import load_file
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from qpeft.adapters import QPAConfig, export_lora
from tests.tiny_models import IDS, logits, shake

bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install bitsandbytes")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Merge lora module to 4-bit", "ignore:Unmerge lora module to 4-bit"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning"),
]
TARGETS = ["q_proj", "v_proj", "down_proj"]


def four_bit_layers(model):
    return [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    """A model whose decoder layers are in four bits; its sizes are multiples of a quantisation block's 64."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = LlamaConfig(
        num_hidden_layers=2, hidden_size=64, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=100, max_position_embeddings=32, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    try:
        model = LlamaForCausalLM.from_pretrained(folder, quantization_config=quantisation, device_map="cpu").eval()
        logits(_without_repacking(copy.deepcopy(model)))
    except (RuntimeError, ImportError, NotImplementedError) as error:
        pytest.skip(f"bitsandbytes has no four bits on this CPU: {error}")
    return model


def _without_repacking(model):
    """Keeps bitsandbytes from repacking weights at the first evaluation, after which they no longer pass gradients."""
    for layer in four_bit_layers(model):
        layer.support_avx512bf16_for_cpu = False
    return model


@pytest.fixture
def base(quantised):
    return _without_repacking(copy.deepcopy(quantised))


@pytest.fixture
def adapted(base):
    return adapt(base)


def adapt(base):
    torch.manual_seed(0)
    config = QPAConfig(r=2, target_modules=TARGETS, chunk_size=64, task_type="CAUSAL_LM")
    return shake(get_peft_model(base, config), by=0.3).eval()


def gradients(model):
    model.train()
    model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_the_base_is_in_four_bits_and_the_start_is_the_identity(base):
    assert len(four_bit_layers(base)) == 2 * 7
    before = logits(base)
    model = get_peft_model(base, QPAConfig(r=2, target_modules=TARGETS, chunk_size=64))
    assert torch.equal(logits(model.eval()), before)


def test_only_the_generator_trains(adapted):
    trained = gradients(adapted)
    assert trained.keys() == {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert all("lora_bank" in name and gradient.abs().max() > 0 for name, gradient in trained.items())


def test_gradients_are_those_of_the_dequantised_base(adapted):
    """The reference is a base whose four-bit layers are the Linears that they stand for."""
    plain = copy.deepcopy(adapted)
    for module in list(plain.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, bnb.nn.Linear4bit):
                linear = torch.nn.Linear(child.in_features, child.out_features, bias=False)
                linear.weight.data = bnb.functional.dequantize_4bit(child.weight.data, child.weight.quant_state)
                setattr(module, name, linear.requires_grad_(False))
    assert not four_bit_layers(plain)
    torch.testing.assert_close(gradients(adapted), gradients(plain), rtol=1e-4, atol=1e-6)


def test_gradients_after_an_evaluation_are_the_same(adapted):
    expected = gradients(adapted)
    adapted.zero_grad()
    logits(adapted.eval())
    torch.testing.assert_close(gradients(adapted), expected, rtol=0, atol=0)


def test_gradients_of_a_prepared_base_with_checkpointing_are_the_same(adapted, quantised):
    base = _without_repacking(copy.deepcopy(quantised))
    prepared = adapt(prepare_model_for_kbit_training(base, gradient_checkpointing_kwargs={"use_reentrant": False}))
    assert prepared.is_gradient_checkpointing
    torch.testing.assert_close(gradients(prepared), gradients(adapted), rtol=1e-5, atol=1e-7)


def test_disabling_gives_the_base_back(adapted, base):
    with adapted.disable_adapter():
        without = logits(adapted)
    assert not torch.allclose(without, logits(adapted), atol=1e-3)
    assert torch.equal(without, logits(adapted.unload()))


def test_the_saved_adapter_holds_the_generator_only(adapted, quantised, tmp_path):
    adapted.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(t.numel() for t in saved.values()) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    loaded = PeftModel.from_pretrained(_without_repacking(copy.deepcopy(quantised)), tmp_path).eval()
    assert torch.equal(logits(loaded), logits(adapted))


def test_export_is_a_plain_lora_of_the_four_bit_base(adapted, quantised, tmp_path):
    exported = export_lora(adapted, tmp_path / "lora")
    plain = PeftModel.from_pretrained(_without_repacking(copy.deepcopy(quantised)), tmp_path / "lora").eval()
    assert type(plain.peft_config["default"]) is LoraConfig
    torch.testing.assert_close(logits(plain), logits(adapted), rtol=0, atol=1e-5)
    assert exported.max_difference < 1e-5


def test_merging_quantises_anew_as_peft_does(adapted, quantised, tmp_path):
    """Merged weights are rounded to four bits again, so the reference is peft's own merge of the same update."""
    export_lora(adapted, tmp_path / "lora")
    plain = PeftModel.from_pretrained(_without_repacking(copy.deepcopy(quantised)), tmp_path / "lora").eval()
    unmerged = logits(adapted)
    merged, reference = logits(adapted.merge_and_unload()), logits(plain.merge_and_unload())
    torch.testing.assert_close(merged, reference, rtol=0, atol=1e-4)
    assert not torch.allclose(merged, unmerged, atol=1e-3)


def test_bitsandbytes_repacks_weights_at_evaluation(quantised):
    """Why the tests and the documentation switch it off; plain peft is affected as well. Can go when this fails."""
    if not four_bit_layers(quantised)[0].support_avx512bf16_for_cpu:
        pytest.skip("this CPU has no AVX512-BF16, without which nothing is repacked")
    model = get_peft_model(copy.deepcopy(quantised), LoraConfig(r=2, target_modules=TARGETS, init_lora_weights=False))
    complete = gradients(model)
    model.zero_grad()
    logits(model.eval())
    with pytest.warns(UserWarning, match="autograd kernel was not registered"):
        assert gradients(model).keys() < complete.keys()
