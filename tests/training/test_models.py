import pytest
import torch

from qpeft.errors import ConfigError
from qpeft.training import embedded
from qpeft.training.config import ModelOptions
from qpeft.training.models import load_config, load_model, load_tokenizer, num_positions, skeleton


def test_the_embedded_model_is_small_frozen_and_in_float32():
    model = load_model(ModelOptions(model=embedded.NAME))
    assert (embedded.MODEL_FOLDER / "model.safetensors").stat().st_size < 4 * 2**20
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in model.parameters())
    assert 0.8e6 < sum(p.numel() for p in model.parameters()) < 1.5e6
    assert load_tokenizer(embedded.NAME).vocab_size == model.config.vocab_size


def test_a_skeleton_has_names_and_shapes_but_no_weights(model_folder):
    config = load_config(str(model_folder))
    model = skeleton(config)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert tuple(model.lm_head.weight.shape) == (100, 32)
    assert num_positions(config) == 32


def test_dtype(model_folder):
    model = load_model(ModelOptions(model=str(model_folder), dtype="bfloat16"))
    assert next(model.parameters()).dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="dtype 'int8' is not one of"):
        ModelOptions(model="x", dtype="int8")


@pytest.mark.parametrize("loader", [load_config, load_tokenizer, lambda name: load_model(ModelOptions(model=name))])
def test_what_cannot_be_loaded(loader, tmp_path):
    with pytest.raises(ConfigError, match=r"has no config.json"):
        loader(str(tmp_path))
    with pytest.raises(ConfigError, match="is no model folder"):
        loader(str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match=r"'no-such-model' cannot be loaded.*or embedded"):
        loader("no-such-model")


def test_a_model_that_generates_no_text(tmp_path):
    from transformers import ViTConfig

    ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="a vit model is no causal language model"):
        skeleton(load_config(str(tmp_path)))


def test_an_encoder_without_a_head_is_refused(tmp_path):
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, is_decoder=True
    )
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"lacks weights of a causal language model \(cls\."):
        load_model(ModelOptions(model=str(tmp_path)))
