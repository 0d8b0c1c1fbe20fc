"""What the feed-forward adapter and the additive prefix share: they behave as peft's own tuners, but do not merge."""

import copy
import pickle

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftConfig, PeftModel, get_peft_model
from peft.helpers import disable_input_dtype_casting
from safetensors.torch import load_file
from torch import nn
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel

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


def differ(one, other):
    return (one - other).abs().max() > 1e-2


def two_adapters(kind):
    model = shaken(adapted(kind))
    model.add_adapter("two", config(kind, ["mlp.c_proj", "lm_head"]))
    return shaken(model, "two", seed=7)


# ---- start and training


@pytest.mark.parametrize("make", [gpt2, llama])
def test_starts_as_the_identity_bit_for_bit(kind, make):
    model = adapted(kind, make(), targets="all-linear")
    assert torch.equal(logits(model), logits(make()))
    assert differ(logits(shaken(model)), logits(make()))


def test_targets_the_head_unless_told_otherwise(kind):
    for make in (gpt2, llama):
        model = get_peft_model(make(), kind())
        assert model.base_model.targeted_module_names == ["lm_head"]


def test_only_the_adapter_trains(kind):
    model = adapted(kind)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    layers = ["transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn", "lm_head"]
    assert trained == {f"base_model.model.{layer}.{n}.default.weight" for layer in layers for n in NAMES[kind]}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    first = loss(model)
    for _ in range(3):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    assert loss(model) < first
    assert trained == {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


def test_accumulated_gradients_are_the_full_batchs(kind):
    model = shaken(adapted(kind))
    loss(model).backward()
    full = gradients(model)
    model.zero_grad()
    for row in IDS.split(1):
        (loss(model, row) / 2).backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, full[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("make", [gpt2, llama])
def test_checkpointing_gives_the_same_gradients(kind, make, use_reentrant):
    model = shaken(adapted(kind, make(), targets="all-linear")).train()
    loss(model).backward()
    expected = gradients(model)
    model.zero_grad()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    loss(model).backward()
    assert expected
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5)


@pytest.mark.slow  # compiling imports much
def test_compiled_training_gives_the_same_gradients(kind):
    model = shaken(adapted(kind)).train()
    expected = loss(model)
    expected.backward()
    wanted = gradients(model)
    model.zero_grad()
    out = loss(torch.compile(model, backend="eager"))
    out.backward()
    torch.testing.assert_close(out, expected)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=1e-5)


# ---- files


@pytest.mark.parametrize("make", [gpt2, llama])
def test_round_trip_writes_the_adapter_alone(kind, make, tmp_path):
    model = shaken(adapted(kind, make(), targets=["lm_head"], layers_to_transform=None))
    model.save_pretrained(tmp_path)
    keys = [f"base_model.model.lm_head.{name}.weight" for name in NAMES[kind]]
    assert sorted(load_file(tmp_path / "adapter_model.safetensors")) == keys
    again = PeftModel.from_pretrained(make(), tmp_path).eval()
    assert torch.equal(logits(again), logits(model))
    assert differ(logits(again), logits(make()))
    assert not any(p.requires_grad for p in again.parameters())
    assert all(
        p.requires_grad
        for p in PeftModel.from_pretrained(make(), tmp_path, is_trainable=True)
        .base_model.model.lm_head.get_submodule(NAMES[kind][0])
        .parameters()
    )
    cheap = PeftModel.from_pretrained(make(), tmp_path, low_cpu_mem_usage=True).eval()
    assert torch.equal(logits(cheap), logits(model))


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


def test_config_pickles_and_copies(kind):
    one = config(kind, layers_to_transform=[0, 1])
    assert pickle.loads(pickle.dumps(one)) == one == copy.deepcopy(one)
    assert one.target_modules == {"c_attn", "lm_head"}
    assert "trainable_token_indices" not in one.to_dict()


def test_modules_to_save_train_in_full(kind, tmp_path):
    options = {"num_labels": 3, "model_class": GPT2ForSequenceClassification}
    torch.manual_seed(0)
    model = get_peft_model(gpt2(**options), kind(target_modules=["c_attn"], task_type="SEQ_CLS")).eval()
    model(input_ids=IDS, labels=torch.tensor([0, 2])).loss.backward()
    assert gradients(model)["base_model.model.score.modules_to_save.default.weight"].abs().max() > 0
    shaken(model).save_pretrained(tmp_path)
    names = sorted(load_file(tmp_path / "adapter_model.safetensors"))
    assert [name for name in names if "c_attn" not in name] == ["base_model.model.score.weight"]
    again = PeftModel.from_pretrained(gpt2(**options), tmp_path).eval()
    assert torch.equal(logits(again), logits(model))


# ---- several adapters


def test_switching_disabling_and_deleting(kind):
    model = two_adapters(kind)
    first = logits(model)
    model.set_adapter("two")
    second = logits(model)
    assert differ(first, second)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 3 * len(NAMES[kind])
    assert all(".two." in name for name in trained)
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(gpt2()))
    assert torch.equal(logits(model), second)
    model.delete_adapter("default")
    assert torch.equal(logits(model), second)
    assert not any(".default." in name for name in model.state_dict())
    assert list(model.peft_config) == ["two"]


def test_a_further_adapter_changes_nothing_until_it_is_active(kind):
    model = shaken(adapted(kind))
    before = logits(model)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    model.add_adapter("two", config(kind, ["mlp.c_proj", "lm_head"]))
    assert torch.equal(logits(shaken(model, "two")), before)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trained


def test_a_further_adapter_on_all_linear_layers_finds_the_wrapped_ones(kind):
    model = adapted(kind, targets=["c_attn", "mlp.c_proj"])
    model.add_adapter("two", config(kind, "all-linear"))
    fresh = adapted(kind, targets="all-linear").base_model.targeted_module_names
    found = {name.split(f".{NAMES[kind][0]}.two")[0] for name in model.state_dict() if f"{NAMES[kind][0]}.two" in name}
    assert found == {f"base_model.model.{name}" for name in fresh}


def test_each_adapter_is_saved_alone(kind, tmp_path):
    model = two_adapters(kind)
    model.set_adapter("two")
    expected = logits(model)
    model.save_pretrained(tmp_path, selected_adapters=["two"])
    again = PeftModel.from_pretrained(gpt2(), tmp_path / "two", adapter_name="other").eval()
    assert torch.equal(logits(again), expected)
    again.load_adapter(tmp_path / "two", "third")
    again.set_adapter("third")
    assert torch.equal(logits(again), expected)


def test_mixed_batches_are_refused(kind):
    model = two_adapters(kind)
    with pytest.raises(ConfigError, match=r"adapter_names is not available.*set_adapter"):
        model(input_ids=IDS, adapter_names=["default", "two"])
    with pytest.raises(ConfigError, match="adapter_names is not available"):
        model.generate(input_ids=IDS, adapter_names=["default", "two"], max_new_tokens=2)


# ---- no merging


@pytest.mark.parametrize(
    "merge",
    [
        lambda model: model.merge_and_unload(),
        lambda model: model.merge_adapter(),
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


def test_unloading_gives_the_base_model_back(kind):
    model = copy.deepcopy(shaken(adapted(kind)))
    loss(model).backward()
    base = model.unload()
    assert torch.equal(logits(base), logits(gpt2()))
    assert list(base.state_dict()) == list(gpt2().state_dict())
    assert base.lm_head.weight is base.transformer.wte.weight
    assert not base._forward_pre_hooks
    assert not base._forward_hooks


# ---- copies and types


def test_a_copy_is_independent(kind):
    model = shaken(adapted(kind))
    loss(model).backward()
    twin = copy.deepcopy(model)
    before = logits(model)
    assert torch.equal(logits(twin), before)
    assert differ(logits(shaken(twin, seed=6)), before)
    assert torch.equal(logits(model), before)


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


def test_autocast(kind):
    model = shaken(adapted(kind))
    with torch.autocast("cpu", torch.bfloat16):
        low = loss(model)
    low.backward()
    torch.testing.assert_close(low, loss(model), rtol=0.05, atol=0.05)
    assert {g.dtype for g in gradients(model).values()} == {torch.float32}


# ---- bad input


class WithEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.dense = nn.Embedding(5, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.dense(self.table(x))


def test_bad_targets_are_refused_and_leave_the_model_alone(kind):
    base = WithEmbedding()
    with pytest.raises(ConfigError, match="'table' is a Embedding; only Linear and Conv1D"):
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
