import copy

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, T5Config, T5ForConditionalGeneration

from qpeft.adapters.additive_prefix import AdditivePrefixConfig
from qpeft.errors import ConfigError
from tests.tiny_models import IDS, gpt2, llama, logits

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

GREEDY = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
LENGTH = 9  # shorter than what is generated: the end gets nothing


def shaken(model, adapter="default", seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if f".{adapter}." in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator))
    return model


def adapted(base, targets=None, length=LENGTH, **options):
    config = AdditivePrefixConfig(target_modules=targets, length=length, **options)
    return shaken(get_peft_model(base, config)).eval()


def table(model, adapter="default"):
    return model.base_model.model.lm_head.additive_prefix[adapter].weight


def by_hand(make, rows, **inputs):
    """Logits of the plain model whose head's input got `rows` (batch, length, hidden) added."""
    base = make()
    hidden = base.base_model(**inputs).last_hidden_state
    return base.lm_head(hidden + rows)


class OneLayer(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.dense = nn.Linear(4, 3)

    def forward(self, x):
        return self.dense(x)


# ---- what it computes


@pytest.mark.parametrize("make", [gpt2, llama])
def test_outputs_and_gradient_are_those_of_the_equation(make):
    model = adapted(make())
    out = model(input_ids=IDS).logits
    rows = table(model).detach().clone().requires_grad_()
    expected = by_hand(make, rows[: IDS.shape[1]], input_ids=IDS)
    torch.testing.assert_close(out, expected)
    out.square().mean().backward()
    expected.square().mean().backward()
    torch.testing.assert_close(table(model).grad, rows.grad, rtol=1e-4, atol=1e-6)
    assert rows.grad[: IDS.shape[1]].abs().min() > 0
    assert rows.grad[IDS.shape[1] :].abs().max() == 0


def test_positions_beyond_the_length_get_nothing():
    model = adapted(gpt2(), length=4)
    torch.testing.assert_close(logits(model)[:, 4:], logits(gpt2())[:, 4:], rtol=0, atol=0)
    assert (logits(model)[:, :4] - logits(gpt2())[:, :4]).abs().amax(dim=(0, 2)).min() > 1e-2


@pytest.mark.parametrize("shape", [(6,), (2, 6), (2, 3, 6)], ids=str)
def test_models_without_tokens_count_along_the_last_but_one_axis(shape):
    x = torch.randn(*shape, 4)
    model = adapted(OneLayer(), ["dense"], length=5)
    rows = torch.cat([model.base_model.model.dense.additive_prefix["default"].weight, torch.zeros(1, 4)])
    torch.testing.assert_close(model(x), OneLayer().dense(x + rows))


def test_several_active_adapters_add_up():
    model = adapted(gpt2())
    model.add_adapter("two", AdditivePrefixConfig(length=3))
    shaken(model, "two", seed=2)
    rows = table(model)[:6].detach().clone()
    rows[:3] += table(model, "two")
    model.base_model.set_adapter(["default", "two"])
    torch.testing.assert_close(logits(model), by_hand(gpt2, rows, input_ids=IDS))


def test_a_module_that_computes_its_weight_can_stand_in():
    class Halved(nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.twice = nn.Parameter(2 * weight.detach())

        @property
        def weight(self):
            return self.twice / 2

    model = adapted(gpt2())
    expected = logits(model)
    layer = model.base_model.model.lm_head
    layer.additive_prefix["default"] = Halved(table(model))
    torch.testing.assert_close(logits(model), expected)
    model(input_ids=IDS).logits.sum().backward()
    assert layer.additive_prefix["default"].twice.grad.abs().max() > 0


def test_published_count():
    """arXiv 2410.09846: 512 positions of GPT-2's 768 features."""
    with torch.device("meta"):
        base = nn.ModuleDict({"lm_head": nn.Linear(768, 50257, bias=False)})
    model = get_peft_model(base, AdditivePrefixConfig(target_modules=["lm_head"]))
    assert model.get_nb_trainable_parameters()[0] == 393_216


# ---- positions


@pytest.mark.parametrize("targets", [["lm_head"], "all-linear"], ids=["head", "all"])
@pytest.mark.parametrize("make", [gpt2, llama])
class TestGenerating:
    def model(self, make, targets):
        model = adapted(make(), targets)
        return model if targets == "all-linear" else self.stronger(model)

    def stronger(self, model):
        with torch.no_grad():
            table(model).mul_(3)
        return model

    def recomputed(self, model, ids):
        for _ in range(8):
            ids = torch.cat([ids, logits(model, input_ids=ids)[:, -1:].argmax(-1)], dim=1)
        return ids

    def test_with_a_cache_is_recomputing_every_token(self, make, targets):
        model, mask = self.model(make, targets), torch.ones_like(IDS)
        expected = self.recomputed(model, IDS)
        for use_cache in (True, False):
            out = model.generate(input_ids=IDS, attention_mask=mask, use_cache=use_cache, **GREEDY)
            assert torch.equal(out, expected)
        assert not torch.equal(expected, self.recomputed(make(), IDS))
        shifted = copy.deepcopy(model)  # the positions matter, else this test shows nothing
        with torch.no_grad():
            for name, parameter in shifted.named_parameters():
                if "additive_prefix" in name:
                    parameter.copy_(parameter.roll(1, 0))
        assert not torch.equal(expected, self.recomputed(shifted, IDS))

    def test_left_padding_changes_nothing(self, make, targets):
        model = self.model(make, targets)
        padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), IDS], dim=1)
        mask = (torch.arange(9) >= 3).long().expand(2, 9)
        out = model.generate(input_ids=padded, attention_mask=mask, **GREEDY)
        assert torch.equal(out[:, 3:], self.recomputed(model, IDS))

    def test_several_beams(self, make, targets):
        model, mask = self.model(make, targets), torch.ones_like(IDS)
        runs = [
            model.generate(input_ids=IDS, attention_mask=mask, num_beams=3, use_cache=use_cache, **GREEDY)
            for use_cache in (True, False)
        ]
        assert torch.equal(*runs)


@pytest.mark.parametrize(
    "keep",
    [0, 1, 3, 50, torch.tensor([4, 1]), torch.tensor([5, 4, 3, 2, 1, 0]), torch.tensor([[0, 5], [2, 2]]), IDS > 20],
    ids=str,
)
def test_the_head_knows_which_logits_are_asked_for(keep):
    for make in (gpt2, llama):
        model = adapted(make())
        full = logits(model)
        if isinstance(keep, int):
            expected = full[:, -keep:]
        elif keep.dim() == 1:
            expected = full[:, keep]
        else:
            expected = full[keep] if keep.dtype == torch.bool else torch.stack([full[i, keep[i]] for i in range(2)])
        torch.testing.assert_close(logits(model, input_ids=IDS, logits_to_keep=keep), expected)


def test_layers_inside_see_every_position_whatever_is_kept():
    model = adapted(llama(), ["q_proj", "down_proj"])
    reversed_order = torch.tensor([5, 4, 3, 2, 1, 0])
    kept = logits(model, input_ids=IDS, logits_to_keep=reversed_order)
    torch.testing.assert_close(kept, logits(model)[:, reversed_order])


def test_given_position_ids_are_followed():
    model = adapted(gpt2())
    ids = torch.tensor([[0, 1, 2, 0, 1, 2], [3, 4, 5, 6, 7, 12]])
    rows = torch.cat([table(model), torch.zeros(4, 32)])[ids]
    expected = by_hand(gpt2, rows, input_ids=IDS, position_ids=ids)
    torch.testing.assert_close(logits(model, input_ids=IDS, position_ids=ids), expected)
    one_row = logits(model, input_ids=IDS, position_ids=ids[1:])
    torch.testing.assert_close(one_row[1], expected[1])
    assert torch.equal(logits(model), logits(adapted(gpt2())))  # and forgotten afterwards


def test_a_cache_without_position_ids_and_positional_arguments():
    model = adapted(llama())
    full = logits(model)
    with torch.no_grad():
        first = model.base_model.model(IDS[:, :4], None, None, None, use_cache=True)
        second = model.base_model.model(IDS[:, 4:], None, None, first.past_key_values)
    torch.testing.assert_close(torch.cat([first.logits, second.logits], dim=1), full, rtol=1e-4, atol=1e-4)


def test_embedded_inputs():
    model = adapted(gpt2())
    embedded = model.get_input_embeddings()(IDS)
    torch.testing.assert_close(logits(model, inputs_embeds=embedded), logits(model))


def test_an_encoder_and_an_image_model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 1}
    bert = AutoModelForMaskedLM.from_config(AutoConfig.for_model("bert", vocab_size=100, **sizes)).eval()
    plain = logits(bert)
    rows = logits(adapted(bert, length=2)) - plain
    assert rows[:, :2].abs().max() > 1e-2
    assert rows[:, 2:].abs().max() == 0

    vit = AutoModel.from_config(AutoConfig.for_model("vit", image_size=32, patch_size=16, **sizes)).eval()
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = vit(pixel_values=image).last_hidden_state
        after = adapted(vit, ["fc2"], length=2)(pixel_values=image).last_hidden_state
    assert (after - before)[:, :2].abs().max() > 1e-2
    torch.testing.assert_close(after[:, 2:], before[:, 2:])


def test_a_copy_follows_its_own_model():
    model = adapted(gpt2())
    expected = model.generate(input_ids=IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=4, do_sample=False)
    twin = copy.deepcopy(model)
    assert twin.base_model.positions is not model.base_model.positions
    assert twin.base_model.model.lm_head.positions is twin.base_model.positions
    model.unload()
    again = twin.generate(input_ids=IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=4, do_sample=False)
    assert torch.equal(again, expected)


class Flattening(nn.Module):
    """Hands its layer the tokens of all sequences in one axis, as mixtures of experts do."""

    gradient_checkpointing = False

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.dense = nn.Embedding(100, 4), nn.Linear(4, 3)

    def forward(self, input_ids):
        return self.dense(self.table(input_ids).reshape(-1, 4)).view(*input_ids.shape, 3)


def test_flattened_inputs_keep_their_positions():
    model = adapted(Flattening(), ["dense"])
    rows = model.base_model.model.dense.additive_prefix["default"].weight[:6]
    plain = Flattening()
    torch.testing.assert_close(model(IDS), plain.dense(plain.table(IDS) + rows))
    model.train().base_model.model.gradient_checkpointing = True  # computed again, the rows would not tell theirs
    with pytest.raises(ConfigError, match="gradient checkpointing computes a layer again"):
        model(IDS)


# ---- bad input


@pytest.mark.parametrize("length", [0, -3, 2.0, "512", True])
def test_bad_lengths_are_refused(length):
    with pytest.raises(ConfigError, match=r"length is .*; it must be a whole number of at least 1"):
        AdditivePrefixConfig(length=length)


def test_encoder_decoder_models_are_refused():
    base = T5ForConditionalGeneration(T5Config(vocab_size=10, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    with pytest.raises(ConfigError, match="encoder-decoder model, which has two sequences"):
        get_peft_model(base, AdditivePrefixConfig(target_modules=["lm_head"]))
    assert not base._forward_pre_hooks


def test_layers_that_do_not_see_every_token_are_refused():
    torch.manual_seed(0)
    bert = AutoModel.from_config(AutoConfig.for_model(
        "bert", vocab_size=100, hidden_size=32, intermediate_size=48, num_attention_heads=2, num_hidden_layers=1
    ))  # fmt: skip
    model = adapted(bert, ["pooler.dense"])
    with pytest.raises(ConfigError, match=r"input of shape \(2, 32\) in a pass over positions of shape \(2, 6\)"):
        model(input_ids=IDS)


def test_checkpointing_with_given_positions_is_refused_inside_the_model():
    ids = torch.arange(6).expand(2, 6)
    for targets, refused in ((["c_attn"], True), (["lm_head"], False)):
        model = adapted(gpt2(), targets).train()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if refused:
            with pytest.raises(ConfigError, match="gradient checkpointing computes a layer again"):
                model(input_ids=IDS, position_ids=ids)
            with torch.no_grad():
                model(input_ids=IDS, position_ids=ids)
        else:
            model(input_ids=IDS, position_ids=ids).logits.sum().backward()
            assert table(model).grad.abs().max() > 0
