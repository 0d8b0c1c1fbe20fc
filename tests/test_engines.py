import pytest
import torch

from qpeft.engines import ENGINES, get_engine
from qpeft.errors import ConfigError
from qpeft.qcircuits import Engine, StatevectorEngine, ansatz


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_answers_the_same_question(name):
    engine = get_engine(name)
    assert isinstance(engine, Engine)
    circuit = ansatz("ry_cnot", 3, 2)
    angles = torch.linspace(-1, 1, circuit.num_parameters, requires_grad=True)
    probabilities = engine.probabilities(circuit, angles)
    assert probabilities.shape == (8,)
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-5)
    (gradient,) = torch.autograd.grad(probabilities[0], angles)
    assert gradient.shape == angles.shape
    assert ENGINES[name].summary


def test_exact_is_the_statevector():
    assert get_engine("exact") == StatevectorEngine()


def test_an_unknown_engine_names_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown engine 'exat'. Did you mean 'exact'\?"):
        get_engine("exat")
