"""Tensor networks as adapters: the bank, and what of the tuner is their own."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from qpeft.adapters import QuantumPEFTConfig, export_lora
from qpeft.adapters.method_table import METHODS
from qpeft.adapters.network_bank import NetworkBank
from qpeft.errors import ConfigError
from qpeft.generators.diagonal import RademacherDiagonal, RealDiagonal
from qpeft.generators.frames import CayleyFrame, PauliFrame
from qpeft.generators.tensor_layouts import NETWORKS
from qpeft.training.adapter_options import CountConfig
from tests.settings import adapter_settings
from tests.tiny_models import moved

TARGETS = {"one": (16, 4), "two": (4, 16), "three": (16, 4), "four": (16, 16)}  # (out, in)


def bank(network="tensor_train", modes=4, rank=2, diagonal=RealDiagonal, frame=CayleyFrame, targets=TARGETS):
    torch.manual_seed(0)
    return NetworkBank(targets, network, modes, rank, frame, diagonal)


@torch.no_grad()
def shaken(made, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
    return made


def updates(made):
    return {name: factors["lora_B"] @ factors["lora_A"] for name, factors in made().items()}


RANKS = {"cp": 2, "tensor_train": 2, "tucker": 4, "tensor_ring": 4, "hierarchical_tucker": 2}


@pytest.mark.parametrize("network", NETWORKS)
def test_layers_and_shapes(network):
    made = bank(network)
    assert made.layers == list(made()) == list(TARGETS)
    for name, factors in made().items():
        rows, columns = TARGETS[name]
        assert factors["lora_B"].shape == (rows, RANKS[network])
        assert factors["lora_A"].shape == (RANKS[network], columns)


def test_layers_of_one_shape_come_from_one_network():
    made = bank()
    assert {name: network.count for name, network in made.networks.items()} == {"16x4": 2, "4x16": 1, "16x16": 1}
    shaken(made)
    for name, (rows, columns), place in [("one", (16, 4), 0), ("three", (16, 4), 1), ("two", (4, 16), 0)]:
        torch.testing.assert_close(updates(made)[name], made.networks[f"{rows}x{columns}"]()[place])
    assert not torch.allclose(updates(made)["one"], updates(made)["three"])


def test_a_layer_is_the_train_of_its_frames():
    made = shaken(bank(targets={"one": (16, 9)}))
    frames = {int(size): list(frame()) for size, frame in made.networks["16x9"].frames.by_size.items()}
    (first,), (last,), (second,), (third,) = (frames[size] for size in (4, 3, 8, 6))
    middle = made.networks["16x9"].diagonal.weight[0]
    expected = torch.einsum("ia,ajb,b,kcb,lc->ijkl", first, second.view(2, 4, 2), middle, third.view(3, 2, 2), last)
    torch.testing.assert_close(updates(made)["one"], expected.reshape(16, 9))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("diagonal", [RealDiagonal, RademacherDiagonal])
def test_the_start_is_exactly_zero(network, diagonal):
    made = bank(network, diagonal=diagonal).eval()
    for name, update in updates(made).items():
        assert torch.equal(update, torch.zeros(TARGETS[name]))
    assert all(update.any() for update in updates(shaken(made)).values())


def test_frozen_numbers_are_those_of_the_start():
    made = bank(diagonal=RademacherDiagonal)
    trained = sum(parameter.numel() for parameter in made.parameters())
    assert made.num_frozen == trained - 2 * len(TARGETS)  # all but the signs
    assert bank().num_frozen == 0


def test_what_trains():
    def triangle(size):
        return 2 * size - 3

    # Modes of 4 and 2 at K = 2: frames of n, n K, n K and n rows, and a diagonal.
    narrow = triangle(4) + triangle(8) + triangle(4) + triangle(2) + 2
    square = 2 * triangle(4) + 2 * triangle(8) + 2
    assert sum(parameter.numel() for parameter in bank().parameters()) == 3 * narrow + square


def test_two_modes_fold_any_shape():
    targets = {"one": (7, 12), "two": (5, 5)}
    made = shaken(bank("tensor_ring", 2, targets=targets, frame=CayleyFrame))
    assert {name: update.shape for name, update in updates(made).items()} == targets
    assert all(torch.linalg.matrix_rank(update) == 4 for update in updates(made).values())


def test_sizes_of_modes_are_those_of_every_layer():
    made = shaken(bank("cp", (3, 4, 2, 5), targets={"one": (12, 10), "two": (12, 10)}))
    assert made.networks["12x10"].modes == (3, 4, 2, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modes": 6}, r"one: a 16 x 4 matrix does not fold into 6 modes: for example modes=2 or 3 or 4 or"),
        ({"targets": {"a": (16, 16), "b": (8, 16)}}, r"b: a 8 x 16 matrix does not fold into 4 modes"),
        ({"modes": 3, "targets": {"a": (64, 64)}}, r"a: modes \(16, 16, 16\) do not keep .* modes=2 or 4 or 6 or"),
        ({"rank": 3}, r"one: rank 3 is above the smallest mode of tensor_train, 2 of modes \(4, 4, 2, 2\)"),
        ({"network": "ring"}, r"one: unknown tensor network 'ring'"),
    ],
)
def test_what_cannot_be_is_named_with_its_layer(options, message):
    with pytest.raises(ConfigError, match=message):
        bank(**options)


def test_circuits_make_networks_too():
    made = shaken(bank("tensor_ring", frame=PauliFrame))
    # Eq. 2 with one layer: 3 q - 2 angles, for frames of 2 n rows.
    n_8, n_4 = 3 * 3 - 2, 3 * 2 - 2
    assert sum(p.numel() for p in made.parameters()) == 3 * (2 * n_8 + 2 * n_4 + 2) + 4 * n_8 + 2
    assert all(torch.linalg.matrix_rank(update) == 4 for update in updates(made).values())


# ---- as a tuner


class Layers(nn.Module):
    """Linear layers of 16 x 16, 16 x 36 and 36 x 16 outputs and inputs, one after the other."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.three = nn.Linear(16, 16), nn.Linear(16, 36), nn.Linear(36, 16)

    def forward(self, x):
        return self.three(torch.tanh(self.two(torch.tanh(self.one(x)))))


X = torch.linspace(-2, 2, 5 * 16).sin().view(5, 16)
SHAPES = {"one": (16, 16), "two": (36, 16), "three": (16, 36)}


def config(network="tensor_train", **options):
    options = {"modes": 4, "parametrization": "cayley", "r": 2, "lora_alpha": 6} | options
    return QuantumPEFTConfig(target_modules=list(SHAPES), network=network, **options)


def adapted(network="tensor_train", seed=0, **options):
    """With an adapter at its start."""
    base = Layers()
    torch.manual_seed(seed)
    return get_peft_model(base, config(network, **options)).eval()


def trained(network="tensor_train", **options):
    return moved(adapted(network, **options), by=0.3)


WAYS = {
    **{name: {"network": name} for name in NETWORKS},
    "of circuits": {"network": "tensor_ring", "parametrization": "pauli", "reps": 2},
    "two modes": {"network": "tucker", "modes": 2, "parametrization": "taylor", "intrinsic_rank": 1},
    "signs": {"network": "tucker", "diagonal": "rademacher"},
    "squares": {"network": "tensor_ring", "measurement": "square"},
    "quantised": {"network": "hierarchical_tucker", "bits": 4, "group_size": 2},
}


@pytest.mark.parametrize("name", WAYS)
def test_the_start_is_the_identity(name):
    assert torch.equal(adapted(**WAYS[name])(X), Layers()(X))


@pytest.mark.parametrize("network", NETWORKS)
def test_the_update_is_alpha_over_k_times_the_network(network):
    model, reference = trained(network), Layers()
    banks = model.base_model.lora_bank["default"]
    with torch.no_grad():
        for name, (rows, columns) in SHAPES.items():
            dense = banks.networks[f"{rows}x{columns}"]()[0]
            layer = model.base_model.model.get_submodule(name)
            torch.testing.assert_close(layer.get_delta_weight("default"), 3 * dense)
            reference.get_submodule(name).weight += 3 * dense
        torch.testing.assert_close(model(X), reference(X), rtol=1e-4, atol=1e-5)
        assert (model(X) - Layers()(X)).abs().max() > 0.1


@pytest.mark.parametrize("name", WAYS)
def test_it_trains_every_number(name):
    model = trained(**WAYS[name]).train()
    model(X).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", WAYS)
def test_saved_merged_and_exported_it_gives_the_same(name, tmp_path):
    model = trained(**WAYS[name])
    with torch.no_grad():
        expected = model(X)
        model.save_pretrained(tmp_path / "own")
        loaded = PeftModel.from_pretrained(Layers(), tmp_path / "own").eval()
        assert torch.equal(loaded(X), expected)
        export_lora(loaded, tmp_path / "lora")
        plain = PeftModel.from_pretrained(Layers(), tmp_path / "lora")
        assert type(plain.peft_config["default"]) is LoraConfig
        torch.testing.assert_close(plain(X), expected, rtol=1e-4, atol=1e-5)
        model.merge_adapter()
        torch.testing.assert_close(model(X), expected, rtol=1e-4, atol=1e-5)
        model.unmerge_adapter()
        torch.testing.assert_close(model.merge_and_unload()(X), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "rank"),
    [*RANKS.items(), ("of circuits", 4), ("two modes", 2), ("signs", 2 * 4), ("squares", 2 * 4), ("quantised", 2)],
)
def test_the_rank_of_the_exported_lora(name, rank, tmp_path):
    export_lora(trained(**WAYS[name]), tmp_path)
    data = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (data["peft_type"], data["r"], data["lora_alpha"], data["rank_pattern"]) == ("LORA", rank, rank, {})
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert saved["base_model.model.two.lora_A.weight"].shape == (rank, 16)


def test_what_the_tuner_trains():
    model = adapted("tensor_ring", r=3)
    triangle = {size: size * 3 - 6 for size in (3 * 4, 3 * 6)}
    expected = 4 * triangle[12] + 3 + 2 * (2 * triangle[12] + 2 * triangle[18] + 3)
    assert model.get_nb_trainable_parameters()[0] == expected
    assert model.peft_config["default"].resolved["num_parameters"] == expected
    assert model.peft_config["default"].resolved["num_frozen"] == 0


def test_quantised_numbers_are_packed_in_files(tmp_path):
    trained("cp", bits=4, group_size=3).save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    # Four frames of 4 rows have 4 * 5 numbers, two to a byte.
    assert saved["base_model.lora_bank.networks.16x16.frames.by_size.4.entries.codes"].numel() == 10
    assert saved["base_model.lora_bank.networks.16x16.diagonal.weight"].dtype == torch.float32


def test_compiled_it_is_one_graph():
    torch._dynamo.reset()
    model = trained("tensor_ring").train()
    backend = CompileCounterWithBackend("aot_eager")
    found = []
    for call in (model, torch.compile(model, backend=backend, fullgraph=True)):
        model.zero_grad()
        out = call(X)
        out.square().mean().backward()
        found.append([out.detach(), *(p.grad.clone() for p in model.parameters() if p.requires_grad)])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
    assert backend.frame_count == 1


def test_sizes_of_modes_survive_a_file(tmp_path):
    options = {"modes": (2, 8, 4, 4), "network": "cp"}
    base = nn.Sequential(nn.Linear(16, 16))
    model = get_peft_model(base, QuantumPEFTConfig(target_modules=["0"], r=2, **options))
    model.save_pretrained(tmp_path)
    assert QuantumPEFTConfig.from_pretrained(tmp_path).modes == [2, 8, 4, 4]
    PeftModel.from_pretrained(nn.Sequential(nn.Linear(16, 16)), tmp_path)


def test_a_network_on_the_command_line():
    settings = CountConfig(**adapter_settings(method="quantum-peft", rank=2, network="cp", modes=4)).settings
    made = METHODS["quantum-peft"].peft_config(settings, "CAUSAL_LM")
    assert (made.network, made.modes, made.r) == ("cp", 4, 2)


@pytest.mark.parametrize("change", [{"network": "cp"}, {"modes": 2}, {"network": None, "modes": None}])
def test_another_network_is_no_saved_adapter(change, tmp_path):
    trained().save_pretrained(tmp_path)
    data = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(data | change))
    with pytest.raises(ConfigError, match=f"cannot be rebuilt: its config's .*{next(iter(change))}.* changed"):
        PeftModel.from_pretrained(Layers(), tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modes": 4}, r"modes needs a network; set network to cp or tensor_train or .* or leave it out"),
        ({"network": "tensor_rang"}, r"unknown tensor network 'tensor_rang'. Did you mean 'tensor_ring'"),
        ({"network": "cp", "modes": 1}, r"modes is 1; it must be a whole number of at least 2"),
        ({"network": "cp", "modes": 4.0}, r"modes is 4.0; it must be"),
        ({"network": "cp", "modes": [4, True, 4, 4]}, r"modes is \[4, True, 4, 4\]; it must be"),
    ],
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        QuantumPEFTConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modes": 6}, r"one: a 16 x 16 matrix does not fold into 6 modes: for example modes=2 or 4 or 8"),
        ({"modes": 8}, r"two: a 36 x 16 matrix does not fold into 8 modes: for example modes=2 or 4 or modes="),
        ({"modes": [4, 4, 4, 4]}, r"two: modes \(4, 4, 4, 4\) do not fold a 36 x 16 matrix: .* product is 576"),
        ({"network": "cp", "r": 5}, r"one: rank 5 is above the smallest mode of cp, 4"),
    ],
)
def test_modes_that_do_not_fold_a_layer_name_it(options, message):
    base = Layers()
    with pytest.raises(ConfigError, match=message):
        get_peft_model(base, config(**options))
    assert not any(module._forward_pre_hooks for module in base.modules())
