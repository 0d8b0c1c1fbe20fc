import numpy as np
import pytest
import torch

from qpeft.errors import ConfigError
from qpeft.generators import ACTIVATIONS, MappingNetwork
from qpeft.generators.mapping import mapping_parameters

WIDTHS = (4, 6, 5, 3)
FUNCTIONS = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


def by_numpy(network, rows, function):
    *hidden, last = [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in network.layers]
    for weight, bias in hidden:
        rows = function(rows @ weight.T + bias)
    weight, bias = last
    return rows @ weight.T + bias


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activation_stands_between_the_layers_and_not_after_the_last(name):
    torch.manual_seed(0)
    network = MappingNetwork(WIDTHS, name).double()
    rows = torch.randn(7, 4, dtype=torch.float64)
    expected = by_numpy(network, rows.numpy(), FUNCTIONS[name])
    np.testing.assert_allclose(network(rows).detach().numpy(), expected, atol=1e-12)


def test_gelu_is_the_exact_one():
    assert ACTIVATIONS["gelu"]()(torch.tensor(1.0)).item() == pytest.approx(0.8413447, abs=1e-6)  # 1 * Phi(1)


@pytest.mark.parametrize("widths", [(3, 5), (2, 3, 4), (11, 32, 64, 128, 128, 64, 32, 32, 256)])
def test_count_is_the_modules(widths):
    assert mapping_parameters(widths) == sum(p.numel() for p in MappingNetwork(widths, "none").parameters())


def test_count_of_the_papers_layers():
    # 38400 before the first feature and chunk, 32 for each further qubit, 33 for each number of a chunk.
    papers = (32, 64, 128, 128, 64, 32, 32)
    assert mapping_parameters((0 + 1, *papers, 256)) == 38400 + 32 * 0 + 33 * 256
    assert mapping_parameters((10 + 1, *papers, 256)) == 38400 + 32 * 10 + 33 * 256


def test_last_is_the_output_layer():
    assert MappingNetwork(WIDTHS, "gelu").last.out_features == WIDTHS[-1]


def test_unknown_activation_names_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown activation 'gleu'. Did you mean .*'gelu'"):
        MappingNetwork(WIDTHS, "gleu")
