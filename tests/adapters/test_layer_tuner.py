"""What the feed-forward adapter and the additive prefix share: they behave as peft's own tuners, but do not merge."""

import copy
import pickle

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftConfig, PeftModel, get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch import nn
from transformers import GPT2LMHeadModel

from qpeft.adapters.additive_prefix import AdditivePrefixConfig
from qpeft.adapters.feedforward import FeedForwardConfig
from qpeft.errors import ConfigError
from tests.tiny_models import IDS, gpt2, llama, logits

CONFIGS = [FeedForwardConfig, AdditivePrefixConfig]
TARGETS = ["c_attn", "lm_head"]  # Conv1D layers and a tied Linear
NAMES = {FeedForwardConfig: ("ffa_down", "ffa_up"), AdditivePrefixConfig: ("additive_prefix",)}
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("error:Model has `tie_word_embeddings=True`"),
    pytest.mark.filterwarnings("error:Setting `save_embedding_layers`"),
    pytest.mark.parametrize("kind", CONFIGS),
]


def config(kind, targets=TARGETS, **options):
    return kind(target_modules=targets, task_type="CAUSAL_LM", **options)


def adapted(kind, base=None, **options):
    torch.manual_seed(0)
    return get_peft_model(gpt2() if base is None else base, config(kind, **options)).eval()


@torch.no_grad()
def shaken(model, adapter="default", seed=1):
    """Moves an adapter away from its start, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if f".{adapter}." in name:
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
    return model


def loss(model, ids=IDS):
    return model(input_ids=ids, labels=ids, use_cache=False).loss


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def two_adapters(kind):
    model = shaken(adapted(kind))
    model.add_adapter("two", config(kind, ["mlp.c_proj", "lm_head"]))
    return shaken(model, "two", seed=7)


# ---- start and training


def test_targets_the_head_unless_told_otherwise(kind):
    for make in (gpt2, llama):
        model = get_peft_model(make(), kind())
        assert model.base_model.targeted_module_names == ["lm_head"]


# ---- files


def test_loads_through_auto_classes(kind, tmp_path):
    gpt2().save_pretrained(tmp_path / "base")
    model = shaken(adapted(kind, GPT2LMHeadModel.from_pretrained(tmp_path / "base")))
    model.save_pretrained(tmp_path / "adapter")
    again = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(again), logits(model))


def test_layer_selection_is_pefts(kind, tmp_path):
    model = adapted(kind, llama(), targets=["q_proj", "o_proj"], layers_to_transform=[1], exclude_modules=["o_proj"])
    assert model.base_model.targeted_module_names == ["model.layers.1.self_attn.q_proj"]
    model.save_pretrained(tmp_path)
    assert type(PeftConfig.from_pretrained(tmp_path)) is kind
    again = PeftModel.from_pretrained(llama(), tmp_path)
    assert again.base_model.targeted_module_names == ["model.layers.1.self_attn.q_proj"]


def test_config_holds_targets_as_a_set_and_no_token_rows(kind):
    one = config(kind, layers_to_transform=[0, 1])
    assert one.target_modules == {"c_attn", "lm_head"}
    assert "trainable_token_indices" not in one.to_dict()


# ---- several adapters


def test_a_further_adapter_on_all_linear_layers_finds_the_wrapped_ones(kind):
    model = adapted(kind, targets=["c_attn", "mlp.c_proj"])
    model.add_adapter("two", config(kind, "all-linear"))
    fresh = adapted(kind, targets="all-linear").base_model.targeted_module_names
    found = {name.split(f".{NAMES[kind][0]}.two")[0] for name in model.state_dict() if f"{NAMES[kind][0]}.two" in name}
    assert found == {f"base_model.model.{name}" for name in fresh}


def test_generating_a_mixed_batch_is_refused(kind):
    model = two_adapters(kind)
    with pytest.raises(ConfigError, match=r"adapter_names is not available.*set_adapter"):
        model.generate(input_ids=IDS, adapter_names=["default", "two"], max_new_tokens=2)


# ---- no merging


@pytest.mark.parametrize(
    "merge",
    [
        lambda model: model.base_model.model.lm_head.merge(),
        lambda model: model.base_model.merge_and_unload(safe_merge=True, adapter_names=["default"]),
    ],
)
def test_merging_is_refused_and_leaves_the_model_alone(kind, merge):
    model = shaken(adapted(kind))
    before = logits(model)
    with pytest.raises(ConfigError, match=r"cannot be merged: .*no weight matrix.*model.unload\(\)"):
        merge(model)
    assert torch.equal(logits(model), before)
    with pytest.warns(UserWarning, match="nothing to unmerge"):
        model.unmerge_adapter()


# ---- copies and types


def test_a_whole_model_pickles(kind):
    model = shaken(adapted(kind))
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(logits(again), logits(model))


def test_half_precision_bases_get_adapters_in_float32(kind):
    base = gpt2().to(torch.bfloat16)
    expected = logits(copy.deepcopy(base))
    model = adapted(kind, base)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert torch.equal(logits(model), expected)
    assert logits(shaken(model)).dtype == torch.bfloat16
    reference = copy.deepcopy(model).float()
    assert (logits(model).float() - logits(reference)).norm() < 0.03 * logits(reference).norm()
    loss(model).backward()
    assert all(g.isfinite().all() for g in gradients(model).values())


def test_adapters_can_keep_the_bases_precision(kind):
    torch.manual_seed(0)
    base = gpt2().to(torch.bfloat16)
    model = get_peft_model(base, config(kind), autocast_adapter_dtype=False)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    with disable_input_dtype_casting(model):
        assert logits(shaken(model.eval())).isfinite().all()


# ---- bad input


class WithEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.dense = nn.Embedding(5, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.dense(self.table(x))


def test_bad_targets_are_refused_and_leave_the_model_alone(kind):
    base = WithEmbedding()
    with pytest.raises(ConfigError, match="'table' is an Embedding; only Linear and Conv1D"):
        get_peft_model(base, kind(target_modules=["table", "dense"]))
    with pytest.raises(ConfigError, match=r"unknown target layer 'dnse'\. Did you mean 'dense'"):
        get_peft_model(base, kind(target_modules=["dnse"]))
    with pytest.raises(ConfigError, match="no output head"):
        get_peft_model(base, kind())
    assert list(base.state_dict()) == list(WithEmbedding().state_dict())


def test_a_refused_further_adapter_leaves_the_first_alone(kind):
    model = shaken(adapted(kind))
    before = logits(model)
    with pytest.raises(ConfigError, match="unknown target layer"):
        model.add_adapter("two", config(kind, ["nothing"]))
    assert list(model.peft_config) == ["default"]
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": 3}, "target_modules is 3; give layer names"),
        ({"target_modules": ["a", 3]}, "target_modules is"),
        ({"exclude_modules": {"a": 1}}, "exclude_modules is"),
        ({"target_modules": ".*", "layers_to_transform": 1}, "write the indices into the regular expression"),
        ({"target_modules": ["a"], "layers_pattern": "h"}, "layers_pattern needs layers_to_transform"),
    ],
)
def test_bad_selections_are_refused(kind, options, message):
    with pytest.raises(ConfigError, match=message):
        kind(**options)
