import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from qpeft.errors import ConfigError
from qpeft.generators.base_rounding import round_weights_
from qpeft.generators.quantization import QuantizationAware


def model():
    torch.manual_seed(0)
    return nn.ModuleDict(
        {"embed": nn.Embedding(10, 16), "up": Conv1D(32, 16), "down": nn.Linear(32, 16), "norm": nn.LayerNorm(16)}
    )


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_rounds_linear_and_conv1d_weights_only(bits):
    base = model()
    nn.init.normal_(base["up"].bias)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    assert round_weights_(base, bits, 64) == ["up", "down"]
    for name, tensor in base.state_dict().items():
        if name in {"up.weight", "down.weight"}:
            assert torch.equal(tensor, QuantizationAware(bits, 64)(before[name]))
            assert max(chunk.unique().numel() for chunk in tensor.view(-1, 64)) == min(2**bits, 64) or bits == 8
            assert not torch.equal(tensor, before[name])
        else:
            assert torch.equal(tensor, before[name])


def test_stays_trainable_in_its_dtype_and_rounds_a_shared_weight_once():
    base = model().to(torch.bfloat16)
    base["tied"] = nn.Linear(32, 16, bias=False)
    base["tied"].weight = base["down"].weight
    assert round_weights_(base, 4, 128) == ["up", "down"]
    assert base["tied"].weight is base["down"].weight
    assert base["down"].weight.dtype == torch.bfloat16
    assert base["down"].weight.requires_grad


def test_bad_input_is_named_before_anything_is_rounded():
    base = model()
    before = base["up"].weight.clone()
    base["small"] = nn.Linear(4, 4)
    with pytest.raises(ConfigError, match=r"128 is larger than small.weight, which has 16 numbers"):
        round_weights_(base, 3)
    with pytest.raises(ConfigError, match="bits is 0"):
        round_weights_(base, 0, 16)
    with torch.no_grad():
        base["small"].weight[0, 0] = float("nan")
    with pytest.raises(ConfigError, match=r"small.weight has numbers that are not finite"):
        round_weights_(base, 3, 16)
    base["small"].weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ConfigError, match=r"small.weight is torch.uint8, already quantised"):
        round_weights_(base, 3, 16)
    assert torch.equal(base["up"].weight, before)
    with pytest.raises(ConfigError, match="ReLU has no Linear or Conv1D"):
        round_weights_(nn.ReLU(), 3)


def test_refuses_a_model_with_adapters():
    adapted = get_peft_model(nn.Sequential(nn.Linear(16, 16)), LoraConfig(target_modules=["0"], r=2))
    with pytest.raises(ConfigError, match="round the base model first"):
        round_weights_(adapted, 3, 16)
