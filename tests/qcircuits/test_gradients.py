import itertools
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from qiskit.quantum_info import Statevector
from qiskit_reference import circuits, random_circuit, to_qiskit
from torch.utils._python_dispatch import TorchDispatchMode

from qpeft.errors import CircuitError, EngineError
from qpeft.qcircuits import GATES, Angle, Circuit, CircuitBuilder, StatevectorEngine, ansatz, gradients
from qpeft.qcircuits.gradients import in_blocks, parameter_shift_vjp, shift_rule, spsa_vjp, unshared

TURNING = [name for name, row in GATES.items() if row.has_angle]
EXACT = in_blocks(StatevectorEngine())


def around(name, *angles):
    """The gate once an angle, on alternating orders of its qubits, between gates that make every angle matter."""
    builder = CircuitBuilder(2)
    for angle in angles:
        builder.rx(0, angle=0.4).ry(1, angle=1.1).h(0).cx(0, 1)
        builder.append(name, (0, 1)[: GATES[name].num_qubits], angle)
        builder.ry(0, angle=0.8).rx(1, angle=-0.5).ecr(1, 0)
    return builder.build()


def points(circuit, batch=2, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(-3, 3, (batch, circuit.num_parameters)))


def cotangents(circuit, batch=2, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(batch, 2**circuit.num_qubits)))


def by_autograd(circuit, angles, cotangent):
    angles = angles.clone().requires_grad_()
    return torch.autograd.grad(StatevectorEngine().probabilities(circuit, angles), angles, cotangent)[0]


def by_differences(circuit, angles, cotangent, step=1e-5):
    """From Qiskit's probabilities; the truncation is below 1e-8 for the scales here."""

    def value(row, upstream):
        return Statevector(to_qiskit(circuit, row)).probabilities() @ upstream

    moves = step * np.eye(circuit.num_parameters)
    return torch.tensor([[(value(row + move, g) - value(row - move, g)) / (2 * step) for move in moves]
                         for row, g in zip(angles.numpy(), cotangent.numpy(), strict=True)])  # fmt: skip


@pytest.mark.parametrize("name", TURNING)
def test_the_rule_differentiates_every_trigonometric_polynomial_of_the_gate(name):
    gaps, rng = GATES[name].gaps, np.random.default_rng(4)
    cosines, sines, t = rng.normal(size=len(gaps)), rng.normal(size=len(gaps)), 0.7

    def f(t):
        return sum(a * np.cos(g * t) + b * np.sin(g * t) for a, b, g in zip(cosines, sines, gaps, strict=True))

    slope = sum(g * (b * np.cos(g * t) - a * np.sin(g * t)) for a, b, g in zip(cosines, sines, gaps, strict=True))
    assert sum(c * (f(t + s) - f(t - s)) for s, c in shift_rule(name)) == pytest.approx(slope, abs=1e-12)


def test_the_rules_are_those_of_the_literature():
    for name in ("rx", "ry", "rz", "p", "rzz"):
        assert shift_rule(name) == ((np.pi / 2, 0.5),)
    assert shift_rule("rbs") == ((np.pi / 4, 1.0), (np.pi / 2, pytest.approx((1 - 2**0.5) / 2)))
    assert set(TURNING) == {"rx", "ry", "rz", "p", "rzz", "rbs"}


@pytest.mark.parametrize("name", [name for name in GATES if name not in TURNING])
def test_a_gate_without_an_angle_has_no_rule(name):
    with pytest.raises(CircuitError, match=f"no shift rule for gate '{name}'"):
        shift_rule(name)


@pytest.mark.parametrize("name", TURNING)
@pytest.mark.parametrize(
    "angles",
    [
        (Angle(0),),
        (Angle(0, -2.0, 0.3),),
        (Angle(0), Angle(1), Angle(0, 0.5, -1.0)),
        (Angle(1, 1.5), Angle(None, offset=0.9), Angle(1, -1.0)),  # theta[0] acts nowhere
        (Angle(0, 0.0, 0.4), Angle(0)),
    ],
    ids=["own", "affine", "shared", "constant", "scale 0"],
)
def test_parameter_shift_is_the_exact_gradient(name, angles):
    circuit = around(name, *angles)
    theta, cotangent = points(circuit), cotangents(circuit)
    given = parameter_shift_vjp(EXACT, circuit, theta, cotangent)
    torch.testing.assert_close(given, by_autograd(circuit, theta, cotangent), atol=1e-11, rtol=0)
    torch.testing.assert_close(given, by_differences(circuit, theta, cotangent), atol=1e-7, rtol=0)


@given(circuits(max_qubits=3), st.integers(0, 2))
def test_parameter_shift_is_the_exact_gradient_of_any_circuit(circuit, batch):
    theta, cotangent = points(circuit, batch), cotangents(circuit, batch)
    given = parameter_shift_vjp(EXACT, circuit, theta, cotangent)
    torch.testing.assert_close(given, by_autograd(circuit, theta, cotangent), atol=1e-10, rtol=0)


def test_all_shifted_circuits_are_one_call():
    asked = []

    def evaluate(circuit, angles):
        asked.append((circuit, tuple(angles.shape)))
        return EXACT(circuit, angles)

    circuit = CircuitBuilder(2).ry(0).rbs(0, 1).rx(1, angle=Angle(0)).build()
    parameter_shift_vjp(evaluate, circuit, points(circuit, 5), cotangents(circuit, 5))
    plain = unshared(circuit).circuit
    assert asked == [(plain, (5 * (2 + 4 + 2), 3))]
    asked.clear()
    spsa_vjp(evaluate, circuit, points(circuit, 5), cotangents(circuit, 5), np.random.default_rng(0), 0.1)
    assert asked == [(plain, (10, 3))]


@given(circuits(max_qubits=3), st.integers(0, 2**32))
def test_unshared_angles_are_the_same_circuit(circuit, seed):
    plain, theta = unshared(circuit), points(circuit, 3, seed)
    assert [o.angle for o in plain.circuit.operations if o.angle and o.angle.index is not None] == [
        Angle(place) for place in range(plain.circuit.num_parameters)
    ]
    phi = plain.expand(theta)
    assert phi.shape == (3, plain.circuit.num_parameters)
    engine = StatevectorEngine()
    ours, theirs = engine.probabilities(plain.circuit, phi), engine.probabilities(circuit, theta)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


@given(circuits(max_qubits=3), st.integers(0, 2**32))
def test_gather_is_the_transpose_of_expand(circuit, seed):
    plain, theta = unshared(circuit), points(circuit, 2, seed).requires_grad_()
    phi = plain.expand(theta)
    upstream = torch.from_numpy(np.random.default_rng(seed).normal(size=tuple(phi.shape)))
    (pulled,) = torch.autograd.grad(phi, theta, upstream)
    torch.testing.assert_close(plain.gather(upstream, circuit.num_parameters), pulled)


def test_a_circuit_with_plain_angles_stays_itself():
    circuit = ansatz("ry_cnot", 3, 2)
    assert unshared(circuit).circuit == circuit


class EveryDirection:
    """Stands for a random generator: row k of a batch moves in the k-th of all directions."""

    def integers(self, low, high, shape):
        return np.array(list(itertools.product(range(low, high), repeat=shape[-1])))


@pytest.mark.parametrize("circuit", [ansatz("ry_cnot", 3, 2), random_circuit(3, 20, seed=2)], ids=["plain", "affine"])
def test_spsa_is_the_gradient_up_to_the_square_of_the_step(circuit):
    count = 2**circuit.num_parameters
    theta, cotangent = points(circuit, 1).expand(count, -1), cotangents(circuit, 1).expand(count, -1)
    exact = by_autograd(circuit, theta[:1], cotangent[:1])[0]
    misses = []
    for step in (0.02, 0.01):
        mean = spsa_vjp(EXACT, circuit, theta, cotangent, EveryDirection(), step).mean(0)
        misses.append(float((mean - exact).norm()))
    assert misses[0] < 0.02**2 * 100
    assert misses[0] / misses[1] == pytest.approx(4, rel=0.02)


def test_without_angles_there_is_nothing_to_do():
    def evaluate(circuit, angles):
        raise AssertionError("asked for nothing")

    for circuit, batch in ((CircuitBuilder(1).h(0).build(), 2), (Circuit(1, (), 3), 2), (ansatz("ry_cnot", 2, 1), 0)):
        theta, cotangent = points(circuit, batch), cotangents(circuit, batch)
        assert parameter_shift_vjp(evaluate, circuit, theta, cotangent).tolist() == torch.zeros_like(theta).tolist()
    theta = torch.zeros(2, 0)
    assert spsa_vjp(evaluate, CircuitBuilder(1).h(0).build(), theta, torch.ones(2, 2), None, 0.1).shape == (2, 0)


@pytest.mark.parametrize("extra", [-1, 1], ids=["too few", "too many"])
def test_an_engine_that_answers_with_other_rows_is_named(extra):
    def evaluate(circuit, angles):
        yield torch.zeros(len(angles) + extra, 2**circuit.num_qubits)

    circuit = ansatz("ry_cnot", 2, 1)
    with pytest.raises(EngineError, match="the engine was asked for 8 rows of probabilities and answered with"):
        parameter_shift_vjp(evaluate, circuit, points(circuit), cotangents(circuit))


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_the_size_of_blocks_changes_nothing(size):
    circuit = random_circuit(3, 20, seed=5)
    theta, cotangent = points(circuit, 3), cotangents(circuit, 3)

    def evaluate(circuit, angles):
        return [part for block in EXACT(circuit, angles) for part in block.split(size)]

    given = parameter_shift_vjp(evaluate, circuit, theta, cotangent)
    torch.testing.assert_close(given, by_autograd(circuit, theta, cotangent), atol=1e-11, rtol=0)


def test_blocks_are_made_one_at_a_time():
    circuit, alive, most = ansatz("ry_cnot", 3, 2), weakref.WeakSet(), []

    def evaluate(plain, angles):
        for row in angles:
            most.append(len(alive))
            block = torch.zeros(1, 2**plain.num_qubits, dtype=row.dtype)
            alive.add(block)
            yield block
            del block

    parameter_shift_vjp(evaluate, circuit, points(circuit), cotangents(circuit))
    assert len(most) == 2 * 2 * circuit.num_parameters
    assert max(most) <= 1


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that is made."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numbers = max(self.numbers, out.untyped_storage().nbytes() // out.element_size())
        return out


def test_the_jacobian_never_exists(monkeypatch):
    monkeypatch.setattr(gradients, "BLOCK_NUMBERS", 2**11)
    circuit = ansatz("ry_cnot", 10, 4)
    theta, cotangent = points(circuit, 1), cotangents(circuit, 1)
    with Largest() as seen:
        parameter_shift_vjp(EXACT, circuit, theta, cotangent)
    shifted = 2 * circuit.num_parameters * circuit.num_parameters  # angles of all shifted circuits
    assert 2**11 <= seen.numbers <= max(2 * 2**11, shifted)
    assert seen.numbers < circuit.num_parameters * 2**circuit.num_qubits / 4
