import subprocess
import sys

import pytest
import torch

from qpeft.errors import EngineError
from qpeft.qcircuits import CircuitBuilder, StatevectorEngine, ansatz, memory
from qpeft.qcircuits.fusion import footprint

ENGINE = StatevectorEngine()


@pytest.fixture
def free(monkeypatch):
    """Sets the number of bytes that are free."""
    return lambda count: monkeypatch.setattr(memory, "available_bytes", lambda device: count)


@pytest.mark.parametrize(
    ("call", "gibibytes"),
    [
        (ENGINE.probabilities, "40,960.0"),  # 6 states of 2**40 numbers of 4 bytes, 2 permutations of 8 bytes
        (ENGINE.state, "40,960.0"),
        (lambda circuit, angles: ENGINE.columns(circuit, angles, 2), "65,536.0"),
        (lambda circuit, angles: ENGINE.state(circuit, angles.expand(3, -1)), "90,112.0"),
        (lambda circuit, angles: ENGINE.state(circuit, angles.double()), "65,536.0"),
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


def test_states_of_one_circuit_share_its_matrices():
    held = footprint(ansatz("ry_cnot", 8, 4))
    shared, own = (memory.needed_bytes(8, 16, torch.float32, held, circuits=circuits) for circuits in (1, 16))
    assert own - shared == 3 * 15 * 4 * (2 * 16 * 16) * 4  # tables held, circuits, layers, two blocks, bytes


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


PEAK = """
import sys
from pathlib import Path
import torch
from qpeft.qcircuits import StatevectorEngine, ansatz

torch.set_num_threads(1)

def peak(num_qubits, reps, batch):
    circuit = ansatz("ry_cnot", num_qubits, reps)
    angles = torch.rand(batch, circuit.num_parameters, requires_grad=True)
    StatevectorEngine().probabilities(circuit, angles)[:, 0].sum().backward()
    # not ru_maxrss, in which a process inherits the peak of the one that started it
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

small = peak(4, 2, 2)
print(peak(*map(int, sys.argv[1:])) - small)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("num_qubits", "reps", "batch"), [(22, 8, 1), (4, 128, 2000)], ids=["large state", "many matrices"]
)
def test_estimate_is_what_is_measured(num_qubits, reps, batch):
    arguments = [sys.executable, "-c", PEAK, *map(str, (num_qubits, reps, batch))]
    measured = 1024 * int(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)
    held = footprint(ansatz("ry_cnot", num_qubits, reps))
    estimate = memory.needed_bytes(num_qubits, batch, torch.float32, held)
    assert measured / 1.6 < estimate < 1.6 * measured


@pytest.mark.parametrize("keep_all", [False, True], ids=["adjoint", "backprop"])
def test_backprop_counts_a_state_a_step(keep_all, free):
    free(2**40)
    engine = StatevectorEngine("backprop" if keep_all else "adjoint")
    shallow, deep = (footprint(ansatz("ry_cnot", 22, reps)) for reps in (2, 12))
    sizes = [memory.needed_bytes(22, 1, torch.float32, held, keep_all) for held in (shallow, deep)]
    layers = 10 * (6 + 1)  # six blocks and a ladder
    assert sizes[1] - sizes[0] == pytest.approx(keep_all * layers * 4 * 2**22, abs=2**20)
    free(sizes[1] - 1)
    with pytest.raises(EngineError, match="22 qubits"):
        engine.state(ansatz("ry_cnot", 22, 12), torch.zeros(264, requires_grad=True))
