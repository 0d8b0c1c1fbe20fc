import copy
import json
import pickle
import sys
import warnings

import numpy as np
import pytest
import torch
from qiskit_reference import final_state, random_circuit

from qpeft.engines import get_engine
from qpeft.errors import ConfigError, EngineError
from qpeft.extras import MissingExtraError
from qpeft.qcircuits import CircuitBuilder, StatevectorEngine, Surrogate, ansatz, pennylane_engine
from qpeft.qcircuits.interop import to_pennylane
from qpeft.qcircuits.pennylane_engine import OF_ANY_DEVICE, PennyLaneEngine

DEVICES = ("default.qubit", "lightning.qubit", "default.mixed", "reference.qubit")
CIRCUIT = random_circuit(3, 30, seed=1)  # every kind of gate, shared and affine angles, not symmetric
METHODS = [  # of the gradient, and how far it may be from the exact one
    ("default.qubit", "backprop", 1e-12), ("default.qubit", "adjoint", 1e-12), ("lightning.qubit", "adjoint", 1e-12),
    *((device, method, 1e-12) for device in DEVICES for method in
    ("best", "parameter-shift", "hadamard")), *((device, "finite-diff", 1e-6) for device in DEVICES),
]  # fmt: skip


def numbers(*shape, seed=0, requires_grad=True):
    values = np.random.default_rng(seed).uniform(-3, 3, shape)
    return torch.from_numpy(values).requires_grad_(requires_grad)


def value_and_gradient(engine, circuit, angles, weights):
    values = engine.probabilities(circuit, angles)
    return values.detach(), torch.autograd.grad((values * weights).sum(), angles)[0]


@pytest.mark.parametrize("device", DEVICES)
def test_probabilities_are_qiskits(device):
    engine = PennyLaneEngine(device)
    for seed in range(6):
        circuit = random_circuit(1 + seed % 4, 20, seed)
        angles = numbers(circuit.num_parameters, seed=seed)
        expected = np.abs(final_state(circuit, angles.tolist())) ** 2
        np.testing.assert_allclose(engine.probabilities(circuit, angles).detach(), expected, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
def test_qubit_0_is_the_most_significant_bit(device):
    for circuit, index in ((CircuitBuilder(3).x(0), 4), (CircuitBuilder(3).x(1).cx(1, 2), 3)):
        assert PennyLaneEngine(device).probabilities(circuit.build(), torch.zeros(0)).argmax() == index


@pytest.mark.parametrize(("device", "method", "tolerance"), METHODS)
@pytest.mark.parametrize("batch", [(), (1, 2)], ids=str)
def test_gradients_are_exact(device, method, tolerance, batch):
    angles, weights = numbers(*batch, CIRCUIT.num_parameters), numbers(8, seed=1, requires_grad=False)
    value, gradient = value_and_gradient(PennyLaneEngine(device, diff_method=method), CIRCUIT, angles, weights)
    right, slope = value_and_gradient(StatevectorEngine("backprop"), CIRCUIT, angles, weights)
    torch.testing.assert_close(value, right, atol=1e-12, rtol=0)
    torch.testing.assert_close(gradient, slope, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    ("device", "method"),
    [("default.qubit", "best"), ("default.qubit", "adjoint"), ("lightning.qubit", "best"), ("default.mixed", "best")],
)
def test_gradients_of_many_circuits(device, method):
    """One circuit can hide what is differentiated wrongly: constants, decomposed gates."""
    for seed in range(6):
        circuit = random_circuit(3, 20, seed)
        angles, weights = numbers(2, circuit.num_parameters, seed=seed), numbers(8, requires_grad=False)
        gradient = value_and_gradient(PennyLaneEngine(device, diff_method=method), circuit, angles, weights)[1]
        right = value_and_gradient(StatevectorEngine("backprop"), circuit, angles, weights)[1]
        torch.testing.assert_close(gradient, right, atol=1e-11, rtol=0)


def test_spsa_is_unbiased():
    """The mean of n estimates is within 5 standard errors: 6e-7 for each of 4 angles by the normal law."""
    circuit, weights = ansatz("ry_cnot", 2, 2), numbers(4, requires_grad=False)
    angles, engine = numbers(1, 4).detach().expand(300, 4), PennyLaneEngine(diff_method="spsa")
    gradients = value_and_gradient(engine, circuit, angles.clone().requires_grad_(), weights)[1]
    right = value_and_gradient(StatevectorEngine(), circuit, angles[0].clone().requires_grad_(), weights)[1]
    standard_error = gradients.std(0) / len(gradients) ** 0.5
    assert ((gradients.mean(0) - right).abs() < 5 * standard_error + 1e-3).all()  # 1e-3: the bias, of order 0.01**2


@pytest.mark.parametrize("method", ["best", "adjoint", "parameter-shift"])
@pytest.mark.parametrize("batch", [(0,), (2, 0), (2, 2)], ids=str)
def test_empty_batches_and_circuits_without_angles(method, batch):
    engine = PennyLaneEngine(diff_method=method)
    for circuit in (ansatz("ry_cnot", 2, 1), CircuitBuilder(2).x(0).build()):
        angles = numbers(*batch, circuit.num_parameters)
        values = engine.probabilities(circuit, angles)
        assert values.shape == (*batch, 4)
        assert torch.autograd.grad(values.sum(), angles)[0].shape == angles.shape


def test_dtype_is_the_angles_and_arithmetic_is_double():
    angles = numbers(CIRCUIT.num_parameters).detach().float().requires_grad_()
    for engine in (PennyLaneEngine(), PennyLaneEngine("lightning.qubit")):
        value, gradient = value_and_gradient(engine, CIRCUIT, angles, torch.arange(8.0))
        assert value.dtype == gradient.dtype == torch.float32
        exact = StatevectorEngine().probabilities(CIRCUIT, angles.double())
        torch.testing.assert_close(value, exact.float(), atol=1e-7, rtol=0)


@pytest.mark.parametrize("device", ["default.qubit", "lightning.qubit", "default.mixed"])
def test_shots_have_the_binomial_spread(device):
    """Chi-square of 2e5 shots on 8 states below 40: passes with probability 1 - 1e-6 (7 degrees of freedom)."""
    angles = numbers(CIRCUIT.num_parameters)
    exact = StatevectorEngine().probabilities(CIRCUIT, angles).detach()
    values = PennyLaneEngine(device, shots=200_000).probabilities(CIRCUIT, angles).detach()
    chi_square = 200_000 * ((values - exact) ** 2 / exact).sum()
    assert 0.3 < chi_square < 40  # below 0.3: 1e-4, so frequencies that are the probabilities fail
    torch.testing.assert_close(values * 200_000, (values * 200_000).round(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("device", ["default.qubit", "lightning.qubit", "default.mixed"])
@pytest.mark.parametrize("method", OF_ANY_DEVICE)
def test_equal_seeds_repeat(device, method):
    circuit = CircuitBuilder(2).ry(0).rbs(0, 1).cx(0, 1).sdg(1).rx(1).build()
    angles, weights = numbers(2, circuit.num_parameters), numbers(4, requires_grad=False)

    def run(call=0, seed=7):
        engine = PennyLaneEngine(device, shots=100, diff_method=method, seed=seed)
        engine.draws.call = call
        values = engine.probabilities(circuit, angles)
        loss = (values * weights).sum()
        gradients = [torch.autograd.grad(loss, angles, retain_graph=True)[0] for _ in range(2)]
        assert torch.equal(*gradients)
        return torch.cat([values.detach().flatten(), gradients[0].flatten()])

    assert torch.equal(run(), run())
    assert not torch.equal(run(), run(call=1))
    assert not torch.equal(run(), run(seed=8))


def test_circuits_of_one_call_are_sampled_apart():
    circuit = ansatz("ry_cnot", 3, 1)
    for given, tried in ((circuit, numbers(1, 3).detach().expand(4, 3)), (CircuitBuilder(3).h(0).h(1).build(), None)):
        angles = torch.zeros(4, 0) if tried is None else tried
        rows = PennyLaneEngine(shots=1000).probabilities(given, angles)
        assert len({tuple(row.tolist()) for row in rows}) > 1


def test_gradient_shots_are_those_of_the_gradient():
    """With 1e6 shots the gradient is within 1e-2 (more than 5 standard errors), which 20 forward shots are not."""
    circuit, weights = ansatz("ry_cnot", 2, 1), torch.tensor([1.0, 0, 0, -1], dtype=torch.float64)
    angles = numbers(2)
    engine = PennyLaneEngine(shots=20, diff_method="parameter-shift", gradient_shots=1_000_000)
    value, gradient = value_and_gradient(engine, circuit, angles, weights)
    right = value_and_gradient(StatevectorEngine(), circuit, angles, weights)[1]
    torch.testing.assert_close(value * 20, (value * 20).round())
    torch.testing.assert_close(gradient, right, atol=1e-2, rtol=0)


@pytest.mark.parametrize("method", ["best", *OF_ANY_DEVICE])
def test_every_method_takes_its_own_shots_beside_exact_probabilities(method):
    """The value is exact, the gradient is sampled: it depends on the seed, and approaches the exact one."""
    circuit, weights = ansatz("ry_cnot", 2, 1), torch.tensor([1.0, 0, 0, -1], dtype=torch.float64)
    angles = numbers(2)

    def gradient(**options):
        engine = PennyLaneEngine(diff_method=method, **options)
        value, slope = value_and_gradient(engine, circuit, angles, weights)
        torch.testing.assert_close(value, StatevectorEngine().probabilities(circuit, angles).detach())
        return slope

    assert torch.equal(gradient(gradient_shots=1000), gradient(gradient_shots=1000))
    assert not torch.equal(gradient(gradient_shots=1000), gradient(gradient_shots=1000, seed=1))
    if method != "spsa":  # whose single estimate is far from the mean anyway
        exact = value_and_gradient(StatevectorEngine(), circuit, angles, weights)[1]
        # More than 5 standard errors of the widest, a difference of two means of 1e6 over 2*0.1 (0.007), and its bias.
        torch.testing.assert_close(gradient(gradient_shots=10**6), exact, atol=0.05, rtol=0)


@pytest.mark.parametrize(("device", "method"), [("default.qubit", "backprop"), ("lightning.qubit", "adjoint")])
def test_methods_of_the_device_measure_nothing(device, method):
    engine = PennyLaneEngine(device, diff_method=method, gradient_shots=100)
    message = f"does not support diff_method '{method}' with exact probabilities and gradient_shots=100"
    with pytest.raises(EngineError, match=message):
        engine.probabilities(CIRCUIT, numbers(CIRCUIT.num_parameters))


@pytest.mark.parametrize("method", ["best", *(method for method in OF_ANY_DEVICE if method != "spsa")])
def test_gradients_in_single_precision(method):
    """A difference over 2*0.01 has an error of 0.01**2/6 and one of 1e-7/0.02, each about 1e-5."""
    engine = PennyLaneEngine("lightning.qubit", c_dtype=np.complex64, diff_method=method)
    angles, weights = numbers(CIRCUIT.num_parameters), numbers(8, requires_grad=False)
    gradient = value_and_gradient(engine, CIRCUIT, angles, weights)[1]
    right = value_and_gradient(StatevectorEngine(), CIRCUIT, angles, weights)[1]
    torch.testing.assert_close(gradient, right, atol=2e-4, rtol=0)


@pytest.mark.parametrize("method", ["adjoint", "parameter-shift"])
def test_a_circuit_is_converted_once_for_all_rows(method, monkeypatch):
    made = []
    monkeypatch.setattr(pennylane_engine, "to_pennylane", lambda circuit: made.append(circuit) or to_pennylane(circuit))
    pennylane_engine._function.cache_clear()
    engine = PennyLaneEngine("lightning.qubit", diff_method=method)
    for _ in range(2):
        value_and_gradient(engine, CIRCUIT, numbers(5, CIRCUIT.num_parameters), numbers(8, requires_grad=False))
    assert len(made) == len(set(made))


@pytest.mark.parametrize(
    ("device", "shots", "method"),
    [("default.qubit", None, "backprop"), ("default.qubit", 100, "parameter-shift"),
     ("lightning.qubit", None, "adjoint"), ("default.mixed", None, "parameter-shift"),
     ("reference.qubit", None, "parameter-shift")],
)  # fmt: skip
def test_best_is_the_first_method_the_device_has(device, shots, method):
    """Bit for bit the same gradient, and not that of the other methods."""
    angles, weights = numbers(CIRCUIT.num_parameters), numbers(8, requires_grad=False)
    best, named = (
        value_and_gradient(PennyLaneEngine(device, shots=shots, diff_method=name), CIRCUIT, angles, weights)[1]
        for name in ("best", method)
    )
    assert torch.equal(best, named)


def test_surrogate_of_a_sampled_device():
    engine = Surrogate(PennyLaneEngine("lightning.qubit", shots=50), StatevectorEngine())
    angles, weights = numbers(CIRCUIT.num_parameters), numbers(8, requires_grad=False)
    value, gradient = value_and_gradient(engine, CIRCUIT, angles, weights)
    torch.testing.assert_close(value * 50, (value * 50).round())
    torch.testing.assert_close(gradient, value_and_gradient(StatevectorEngine(), CIRCUIT, angles, weights)[1])


@pytest.mark.parametrize("device", ["default.qubit", "lightning.qubit"])
def test_copies_and_description(device):
    engine = get_engine(f"pennylane@{device}:10x", gradient_shots=50, seed=3)
    angles = numbers(CIRCUIT.num_parameters)
    first = engine.probabilities(CIRCUIT, angles)
    for other in (copy.deepcopy(engine), pickle.loads(pickle.dumps(engine))):
        other.draws.call = 0
        assert torch.equal(other.probabilities(CIRCUIT, angles), first)
    assert json.loads(json.dumps(engine.describe())) == {
        "engine": "PennyLaneEngine", "device": device, "device_options": {}, "shots": "10x", "gradient_shots": "50",
        "diff_method": "parameter-shift", "seed": 3,
    }  # fmt: skip


class Connection:
    """What some devices are given: nothing that can be copied."""

    def __reduce_ex__(self, protocol):
        raise TypeError("a connection is no data")


def test_copies_share_what_the_device_is_given():
    connection = Connection()
    engine = PennyLaneEngine("lightning.qubit", shots=10, seed=3, batch_obs=connection)
    engine.draws.call = 5
    both = copy.deepcopy([engine, engine])
    assert both[0] is both[1]
    other = both[0]
    assert other.device_options == {"batch_obs": connection}
    assert other.draws is not engine.draws
    assert (other.draws.call, other.describe()) == (5, engine.describe())


def test_devices_get_their_options():
    engine = PennyLaneEngine("lightning.qubit", c_dtype=np.complex64)
    exact = PennyLaneEngine("lightning.qubit").probabilities(CIRCUIT, numbers(CIRCUIT.num_parameters))
    error = (engine.probabilities(CIRCUIT, numbers(CIRCUIT.num_parameters)) - exact).abs().max()
    assert 1e-10 < error < 1e-5
    assert json.dumps(engine.describe()["device_options"])


def test_what_cannot_be_is_refused_before_work():
    with pytest.raises(ConfigError, match=r"unknown PennyLane device 'lightnin.qubit'. Did you mean 'lightning.qubit'"):
        PennyLaneEngine("lightnin.qubit")
    with pytest.raises(ConfigError, match=r"unknown diff_method of PennyLaneEngine 'adjoin'. Did you mean 'adjoint'"):
        PennyLaneEngine(diff_method="adjoin")
    refused = [
        ("default.qubit", 100, "backprop"), ("default.qubit", 100, "adjoint"), ("default.mixed", None, "adjoint"),
        ("lightning.qubit", None, "backprop"), ("default.mixed", None, "backprop"),
    ]  # fmt: skip
    for device, shots, method in refused:
        with pytest.raises(EngineError, match=f"'{device}' does not support .*'{method}'.*available: best"):
            PennyLaneEngine(device, shots=shots, diff_method=method).check(CIRCUIT)
    with pytest.raises(EngineError, match=r"'default.qutrit.mixed' cannot run the circuit: .*not supported"):
        PennyLaneEngine("default.qutrit.mixed").check(CIRCUIT)
    with pytest.raises(EngineError, match=r"'default.qubit' on 3 wires: .*nonsense"):
        PennyLaneEngine(nonsense=1).check(CIRCUIT)
    with pytest.raises(EngineError, match="GiB"):
        PennyLaneEngine().check(ansatz("ry_cnot", 40, 1))
    with pytest.raises(EngineError, match="GiB"):
        PennyLaneEngine("default.mixed").check(ansatz("ry_cnot", 20, 1))
    with pytest.raises(EngineError, match="the circuit has 2 angles"):
        PennyLaneEngine().probabilities(ansatz("ry_cnot", 2, 1), torch.zeros(3))


def test_what_a_device_raises_at_work_is_an_engine_error():
    """PennyLane 0.45's own mistake: it takes a readout_prob and then iterates over the number."""
    with pytest.raises(EngineError, match=r"'default.mixed' cannot run the circuit: 'float' object"):
        PennyLaneEngine("default.mixed", readout_prob=0.1).probabilities(CIRCUIT, numbers(CIRCUIT.num_parameters))


def test_what_a_transform_raises_is_an_engine_error(monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("nothing")

    monkeypatch.setattr("pennylane.gradients.vjp", broken)
    angles = numbers(CIRCUIT.num_parameters)
    values = PennyLaneEngine(diff_method="hadamard").probabilities(CIRCUIT, angles)
    with pytest.raises(EngineError, match=r"'default.qubit' cannot run the circuit: nothing"):
        values[0].backward()


def test_a_device_that_only_refuses_at_work_is_an_engine_error():
    with warnings.catch_warnings(), pytest.raises(EngineError, match=r"'default.gaussian' cannot run the circuit"):
        warnings.simplefilter("ignore")
        PennyLaneEngine("default.gaussian").probabilities(CIRCUIT, numbers(CIRCUIT.num_parameters))


def test_second_derivatives_are_refused():
    angles = numbers(CIRCUIT.num_parameters)
    values = PennyLaneEngine("lightning.qubit").probabilities(CIRCUIT, angles)
    (gradient,) = torch.autograd.grad(values[0], angles, create_graph=True)
    with pytest.raises(EngineError, match="differentiable once"):
        gradient.sum().backward()


def test_without_pennylane_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr("qpeft.extras.is_installed", lambda *_: False)
    monkeypatch.delitem(sys.modules, "pennylane", raising=False)
    with pytest.raises(MissingExtraError, match=r'pip install "qpeft\[pennylane\]"'):
        PennyLaneEngine()
