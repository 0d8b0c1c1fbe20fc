import pytest
import torch
from peft import get_peft_model

from qpeft import QuantumPEFTConfig
from qpeft.adapters import QPAConfig
from qpeft.training.facts import frame_facts
from tests.tiny_models import gpt2, moved


@pytest.mark.parametrize("bits", [None, 1])
def test_the_error_is_that_of_the_frames_that_layers_get(bits):
    options = {} if bits is None else {"bits": bits, "group_size": 16}
    torch.manual_seed(0)
    config = QuantumPEFTConfig(
        r=3, target_modules=["c_attn"], parametrization="taylor", order=3, init_scale=0.7, **options
    )
    model = moved(get_peft_model(gpt2(), config), by=0.02)
    worst = {32: 0.0, 96: 0.0}
    for factors in model.base_model.bank()().values():
        V = factors["lora_A"].T.double()
        worst[32] = max(worst[32], (V.T @ V - torch.eye(3)).abs().max().item())
    found = {one["size"]: one for one in frame_facts(model)}
    assert {size: (one["frames"], one["numbers"]) for size, one in found.items()} == {32: (2, 90), 96: (2, 282)}
    assert found[32]["orthogonality_error"] == pytest.approx(worst[32])
    unquantised = [
        frame.orthogonality_error().max().item() for frame in model.base_model.bank().frames.by_size.values()
    ]
    assert ([found[size]["orthogonality_error"] for size in (32, 96)] == pytest.approx(unquantised)) == (bits is None)


def test_frames_of_several_networks_are_joined_by_their_size():
    config = QuantumPEFTConfig(
        r=2, target_modules=["c_attn", "lm_head"], parametrization="cayley", network="cp", modes=2
    )
    found = {one["size"]: one for one in frame_facts(get_peft_model(gpt2(), config))}  # 96 x 32 twice, and 100 x 32
    assert {size: (one["frames"], one["numbers"]) for size, one in found.items()} == {
        32: (3, 2 * 32 - 3), 96: (2, 2 * 96 - 3), 100: (1, 2 * 100 - 3)
    }  # fmt: skip
    assert all(one["orthogonality_error"] < 1e-5 for one in found.values())


def test_other_adapters_have_no_frames():
    assert frame_facts(get_peft_model(gpt2(), QPAConfig(r=2, target_modules=["c_attn"]))) is None
