"""What `qpeft.adapters.peft_internals.prefix` takes for granted about peft 0.21, one test each."""

import inspect
import json

import peft.mapping
import pytest
import torch
from peft import PeftConfig, PeftModel, PeftType, PrefixEncoder, PrefixTuningConfig, get_peft_model
from peft.tuners.tuners_utils import BasePromptEncoder
from peft.utils.other import _prepare_prompt_learning_config
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from qpeft.adapters.peft_internals.prefix import BankPrefixEncoder
from qpeft.adapters.peft_internals.registration import QpeftType
from qpeft.adapters.prefix import QPAPrefixConfig
from tests.tiny_models import IDS, gpt2, llama, logits

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning", "ignore:.*gradient_checkpointing_enable:FutureWarning"
)


def plain(base=None, tokens=3, **options):
    torch.manual_seed(0)
    options = {"num_virtual_tokens": tokens, "task_type": "CAUSAL_LM", **options}
    return get_peft_model(gpt2() if base is None else base, PrefixTuningConfig(**options)).eval()


@pytest.fixture
def encoder_class(monkeypatch):
    """A subclass in peft's dict, to which a test adds what it wants to watch."""
    watched = type("Watched", (PrefixEncoder,), {})
    monkeypatch.setitem(peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING, PeftType.PREFIX_TUNING, watched)
    return watched


def test_ours_is_registered_and_is_peft_s_class_but_for_a_bank():
    assert peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING["PREFIX_TUNING"] is PrefixTuningConfig
    assert peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING["PREFIX_TUNING"] is BankPrefixEncoder
    assert peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING["QPA_PREFIX"] is QPAPrefixConfig
    assert issubclass(BankPrefixEncoder, PrefixEncoder)


def test_the_encoder_is_built_by_the_class_in_the_dict(encoder_class):
    assert type(plain().prompt_encoder["default"]) is encoder_class


def test_the_type_of_a_config_is_set_when_it_is_made_so_that_a_file_may_say_another():
    config = PrefixTuningConfig(peft_type=QpeftType.QPA_PREFIX, num_virtual_tokens=3)
    assert config.peft_type is PeftType.PREFIX_TUNING


def test_a_config_is_saved_through_to_dict_and_its_class_looked_up_by_the_files_type(tmp_path):
    class Other(PrefixTuningConfig):
        def to_dict(self):
            return {**super().to_dict(), "peft_type": "QPA_PREFIX"}

    Other(num_virtual_tokens=3, task_type="CAUSAL_LM").save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "QPA_PREFIX"
    assert type(PeftConfig.from_pretrained(tmp_path)) is QPAPrefixConfig


def test_adapters_of_one_model_must_be_of_one_type_and_unknown_types_are_no_prefix():
    config = PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    model = plain()
    config.peft_type = QpeftType.QPA_PREFIX
    with pytest.raises(ValueError, match="different peft types"):
        model.add_adapter("second", config)
    with pytest.raises(KeyError):  # why the type in memory is PREFIX_TUNING
        get_peft_model(gpt2(), config)


def test_the_encoder_keeps_an_embedding_of_rows_and_calls_it():
    encoder = plain().prompt_encoder["default"]
    assert dict(encoder.named_children()).keys() == {"embedding"}
    assert type(encoder.embedding) is nn.Embedding
    assert encoder.embedding.weight.shape == (3, 2 * 2 * 32)
    assert torch.equal(encoder(torch.tensor([2, 0])), encoder.embedding.weight[[2, 0]])


def test_a_row_holds_layer_by_layer_a_key_and_a_value_cut_into_heads():
    model = plain(llama())
    row = torch.arange(2 * 2 * 16, dtype=torch.float)
    with torch.no_grad():
        model.prompt_encoder["default"].embedding.weight.copy_(row.expand(3, -1) + 1000 * torch.arange(3)[:, None])
        cache = model.get_prompt(batch_size=2)
    expected = row.view(2, 2, 2, 8)  # layer, key or value, head, number
    for i, layer in enumerate(cache.layers):
        for states, which in ((layer.keys, 0), (layer.values, 1)):
            assert states.shape == (2, 2, 3, 8)  # batch, head, token, number
            assert torch.equal(states[1, :, 2], expected[i, which] + 2000)


@pytest.mark.parametrize(("make", "heads", "kv_dim"), [(gpt2, 2, 32), (llama, 2, 16)])
def test_sizes_are_filled_in_from_the_model_and_those_of_grouped_queries_stay_when_filled_in_again(make, heads, kv_dim):
    config = PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    for _ in range(2):
        _prepare_prompt_learning_config(config, make().config)
        assert (config.num_layers, config.num_attention_heads, config.token_dim) == (2, heads, kv_dim)


@pytest.mark.parametrize(("inference_mode", "expected"), [(False, ["weight", "call"]), (True, ["weight", "weight"])])
def test_the_weight_is_read_for_its_device_and_then_the_encoder_called_once(inference_mode, expected):
    model, reads = plain(), []

    class Embedding(nn.Module):
        @property
        def weight(self):
            reads.append("weight")
            return torch.zeros(3, 2 * 2 * 32)

        def forward(self, tokens):
            reads.append("call")
            return torch.zeros(*tokens.shape, 2 * 2 * 32)

    model.prompt_encoder["default"].embedding = Embedding()
    model.peft_config["default"].inference_mode = inference_mode
    logits(model)
    assert reads == expected
    reads.clear()
    model.generate(input_ids=IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=3)
    assert reads == expected
    reads.clear()
    model.get_prompt_embedding_to_save("default")
    assert reads == ["weight", "call"]


def test_saving_asks_the_class_for_the_adapters_tensors_and_then_for_their_names(encoder_class, tmp_path):
    given = {}

    def tensors(cls, **options):
        given.update(options)
        return {"prompt_encoder.mine": torch.ones(2)}

    encoder_class._get_adapter_state_dict = classmethod(tensors)
    encoder_class._remove_adapter_name_from_key = classmethod(lambda cls, key, name: f"{key}.{name}")
    model = plain()
    state = {"anything": torch.zeros(1)}
    model.save_pretrained(tmp_path, state_dict=state)
    assert given.keys() == {"model", "config", "adapter_name", "state_dict", "unwanted_adapter_names"}
    assert given["state_dict"] is state
    assert list(load_file(tmp_path / "adapter_model.safetensors")) == ["prompt_encoder.mine.default"]


def test_loading_hands_the_encoder_the_files_tensors_under_the_files_names(encoder_class, tmp_path):
    plain().save_pretrained(tmp_path)
    names = ["prompt_embeddings", "prompt_encoder.bank.generators.0.mapping.layers.0.weight"]
    save_file({name: torch.ones(2) for name in names}, tmp_path / "adapter_model.safetensors")
    given = {}
    encoder_class._load_adapter_state_dict = lambda self, state_dict: given.update(state_dict)
    PeftModel.from_pretrained(gpt2(), tmp_path)
    assert sorted(given) == names


def test_the_signatures_that_ours_overrides():
    def names(function):
        return list(inspect.signature(function).parameters)

    assert names(BasePromptEncoder._get_adapter_state_dict)[:4] == ["model", "config", "adapter_name", "state_dict"]
    assert names(BasePromptEncoder._remove_adapter_name_from_key) == ["key", "adapter_name"]
    assert names(BasePromptEncoder._load_adapter_state_dict) == ["self", "state_dict"]
    assert names(PrefixEncoder.load_prompt_embeddings) == ["self", "prompt_embeddings"]
    assert not hasattr(PrefixEncoder, "bank")


def test_adapter_names_are_cut_out_of_keys_wherever_they_stand_last_but_one():
    cut = BasePromptEncoder._remove_adapter_name_from_key
    assert cut("prompt_encoder.bank.layers.0.weight", "0") == "prompt_encoder.bank.layers.weight"


def test_a_refused_encoder_takes_its_config_away():
    class Refused(Exception):
        pass

    class Config(QPAPrefixConfig):
        def build_prefix_bank(self):
            raise Refused

    model = plain()
    with pytest.raises(Refused):
        model.add_adapter("second", Config(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    assert list(model.peft_config) == ["default"]


def test_gradient_checkpointing_is_refused():
    base = llama()
    base.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="does not work with gradient checkpointing"):
        plain(base)


def test_a_loaded_prefix_does_not_train(tmp_path):
    plain().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Cannot set a prompt learning adapter to trainable"):
        PeftModel.from_pretrained(gpt2(), tmp_path, is_trainable=True)


def test_models_peft_knows_no_sizes_or_cache_of_are_refused():
    base = DistilBertForSequenceClassification(DistilBertConfig(vocab_size=100, dim=32, n_layers=1, n_heads=2))
    with pytest.raises(ValueError, match="token_dim"):
        plain(base, task_type="SEQ_CLS")
    with pytest.raises(ValueError, match="does not support past key values"):
        plain(base, task_type="SEQ_CLS", token_dim=32, num_attention_heads=2)(input_ids=IDS)
