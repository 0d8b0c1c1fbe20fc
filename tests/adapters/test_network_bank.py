"""Tensor networks as adapters: the bank, and what of the tuner is their own."""

import pytest
import torch

from qpeft.adapters.network_bank import NetworkBank
from qpeft.errors import ConfigError
from qpeft.generators.diagonal import RademacherDiagonal, RealDiagonal
from qpeft.generators.frames import CayleyFrame, PauliFrame
from qpeft.generators.tensor_layouts import NETWORKS

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
