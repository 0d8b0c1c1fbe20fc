import pytest
import torch

from qpeft.errors import EngineError
from qpeft.qcircuits import CircuitBuilder, StatevectorEngine, ansatz, memory

ENGINE = StatevectorEngine()


@pytest.fixture
def free(monkeypatch):
    """Sets the number of bytes that are free."""
    return lambda count: monkeypatch.setattr(memory, "available_bytes", lambda device: count)


@pytest.mark.parametrize(
    ("call", "gibibytes"),
    [
        (ENGINE.probabilities, "24,576.0"),  # 6 copies of 2**40 numbers of 4 bytes
        (ENGINE.state, "24,576.0"),
        (lambda circuit, angles: ENGINE.columns(circuit, angles, 2), "49,152.0"),
        (lambda circuit, angles: ENGINE.state(circuit, angles.expand(3, -1)), "73,728.0"),
        (lambda circuit, angles: ENGINE.state(circuit, angles.double()), "49,152.0"),
    ],
    ids=["probabilities", "state", "columns", "batch", "float64"],
)
def test_40_qubits_say_how_much_they_need(call, gibibytes):
    circuit = ansatz("ry_cnot", 40, 1)
    with pytest.raises(EngineError, match=rf"40 qubits .* need about {gibibytes} GiB; .* GiB are free on cpu"):
        call(circuit, torch.zeros(40))


def test_complex_numbers_count_twice():
    with pytest.raises(EngineError, match=r"40 qubits .* need about 49,152\.0 GiB"):
        ENGINE.state(CircuitBuilder(40).rx(0).build(), torch.zeros(1))


def test_nothing_is_allocated_before(free, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("allocated before the check")

    free(0)
    circuit, angles = ansatz("ry_cnot", 24, 1), torch.zeros(24)
    for name in ("zeros", "eye", "empty", "from_numpy"):
        monkeypatch.setattr(torch, name, refuse)
    for call in (ENGINE.state, lambda c, a: ENGINE.columns(c, a, 4)):
        with pytest.raises(EngineError, match=r"24 qubits .* need about"):
            call(circuit, angles)


@pytest.mark.parametrize(("short_by", "fits"), [(0, True), (1, False)])
def test_the_limit_is_what_is_free(free, short_by, fits):
    free(6 * 4 * 2**22 - short_by)
    if fits:
        memory.require_memory(22, 1, torch.float32, torch.device("cpu"))
    else:
        with pytest.raises(EngineError, match=r"0\.1 GiB are free"):
            memory.require_memory(22, 1, torch.float32, torch.device("cpu"))


def test_small_simulations_do_not_ask(free):
    free(0)
    assert ENGINE.probabilities(ansatz("ry_cnot", 8, 1), torch.zeros(8))[0] == 1


def test_something_is_free_here():
    assert memory.available_bytes(torch.device("cpu")) > 2**20
