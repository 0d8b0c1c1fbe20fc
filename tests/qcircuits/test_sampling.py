"""Samples. A statistical test has a fixed seed and would reject correct code with a chance below 1e-6 at any seed.

With z-scores that is |z| < 6 for up to a thousand comparisons of means that are normal to good accuracy.
"""

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from qiskit.quantum_info import Statevector
from qiskit_reference import circuits, random_circuit, to_qiskit
from scipy import stats

from qpeft.errors import ConfigError, EngineError
from qpeft.qcircuits import CircuitBuilder, SampledEngine, StatevectorEngine, Surrogate, ansatz, gradients
from qpeft.qcircuits.sampling import frequencies

EXACT = StatevectorEngine()
METHODS = ("straight-through", "parameter-shift", "spsa")
every_method = pytest.mark.parametrize("method", METHODS)


def some_angles(circuit, *batch, dtype=torch.float64, seed=0):
    values = np.random.default_rng(seed).uniform(-np.pi, np.pi, (*batch, circuit.num_parameters))
    return torch.tensor(values, dtype=dtype)


def reference(circuit, angles):
    return Statevector(to_qiskit(circuit, angles.numpy())).probabilities()


def sampled_rows(circuit, angles, shots, rows, method="parameter-shift", seed=1):
    engine = SampledEngine(EXACT, shots, method, seed=seed)
    return engine.probabilities(circuit, angles.expand(rows, -1)).numpy()


def mean_absolute_deviation(shots, p):
    """E|k/n - p| of a binomial k, term by term."""
    k = np.arange(shots + 1)[:, None]
    return (stats.binom.pmf(k, shots, p) * np.abs(k / shots - p)).sum(0)


SKEWED = random_circuit(4, 24, seed=11)


@every_method
def test_frequencies_are_unbiased(method):
    """Chi-square of the counts of many calls, each with a sample of its own."""
    angles, shots, calls = some_angles(SKEWED), 200, 400
    engine, right = SampledEngine(EXACT, shots, method, seed=2), reference(SKEWED, angles)
    counts = shots * sum(engine.probabilities(SKEWED, angles) for _ in range(calls)).numpy()
    assert counts.sum() == pytest.approx(shots * calls)
    large = right > 20 / (shots * calls)
    rest = (counts[~large].sum(), right[~large].sum() * shots * calls)
    observed, expected = np.append(counts[large], rest[0]), np.append(right[large] * shots * calls, rest[1])
    keep = expected > 5
    assert observed[~keep].sum() <= 40
    statistic = ((observed - expected)[keep] ** 2 / expected[keep]).sum()
    assert stats.chi2.sf(statistic, keep.sum() - 1) > 1e-7


def test_frequencies_scatter_as_a_multinomial():
    """The mean of chi-square over many samples is D - 1, and its standard error sqrt(2 (D - 1) / rows) or so."""
    circuit = ansatz("ry_cnot", 3, 2)
    angles, shots, rows = some_angles(circuit, seed=4), 300, 4000
    right = reference(circuit, angles)
    statistics = shots * ((sampled_rows(circuit, angles, shots, rows) - right) ** 2 / right).sum(1)
    assert abs(statistics.mean() - 7) < 6 * statistics.std() / np.sqrt(rows)
    covariance = np.cov(sampled_rows(circuit, angles, shots, rows, seed=3).T) * shots
    expected = np.diag(right) - np.outer(right, right)
    spread = np.sqrt((np.outer(expected.diagonal(), expected.diagonal()) + expected**2) / rows)
    assert (np.abs(covariance - expected) < 7 * spread).all()


@pytest.mark.parametrize("c", [10, 20, 40])
@pytest.mark.parametrize("name", ["ry_cnot", "rxrz_cnot"])
def test_total_variation_is_the_mean_absolute_deviation_of_the_binomial(name, c):
    circuit = ansatz(name, 8, 3)
    angles, rows = some_angles(circuit), 300
    right = reference(circuit, angles)
    variations = 0.5 * np.abs(sampled_rows(circuit, angles, f"{c}x", rows) - right).sum(1)
    expected = 0.5 * mean_absolute_deviation(c * 256, right).sum()
    assert abs(variations.mean() - expected) < 6 * variations.std() / np.sqrt(rows)
    assert 0.02 < expected < 0.13


def test_total_variation_falls_with_the_root_of_the_shots():
    circuit = ansatz("ry_cnot", 8, 3)
    angles = some_angles(circuit)
    right = reference(circuit, angles)
    means = [0.5 * np.abs(sampled_rows(circuit, angles, f"{c}x", 200) - right).sum(1).mean() for c in (10, 40, 160)]
    for coarse, fine in itertools.pairwise(means):
        assert coarse / fine == pytest.approx(2, rel=0.1)  # states below one expected count fall a little faster


def test_shots_are_counted():
    circuit = ansatz("ry_cnot", 3, 2)
    for shots, number in ((1, 1), (37, 37), ("10x", 80)):
        p = SampledEngine(EXACT, shots).probabilities(circuit, some_angles(circuit, 5))
        counts = p * number
        torch.testing.assert_close(counts, counts.round())
        torch.testing.assert_close(p.sum(-1), torch.ones(5, dtype=p.dtype))


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_equal_seed_and_call_are_equal_samples(method, dtype):
    angles = some_angles(SKEWED, 3, dtype=dtype)
    one, other = (SampledEngine(EXACT, 100, method, seed=5) for _ in range(2))
    first, second = (one.probabilities(SKEWED, angles) for _ in range(2))
    assert torch.equal(first, other.probabilities(SKEWED, angles))
    assert torch.equal(second, other.probabilities(SKEWED, angles))
    assert not torch.equal(first, second)
    assert not torch.equal(first, SampledEngine(EXACT, 100, method, seed=6).probabilities(SKEWED, angles))
    other.draws.call = 0
    assert torch.equal(first, other.probabilities(SKEWED, angles))
    twin = copy.deepcopy(one)
    assert torch.equal(one.probabilities(SKEWED, angles), twin.probabilities(SKEWED, angles))


def test_rows_of_a_batch_are_samples_of_their_own():
    angles = some_angles(SKEWED).expand(2, -1)
    first, second = SampledEngine(EXACT, 100).probabilities(SKEWED, angles)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("method", ["parameter-shift", "spsa"])
def test_sampled_gradients_repeat_and_differ_from_call_to_call(method):
    def gradient(engine):
        angles = some_angles(SKEWED, 2).requires_grad_()
        p = engine.probabilities(SKEWED, angles)
        first, again = (torch.autograd.grad(p[:, 3].sum(), angles, retain_graph=True)[0] for _ in range(2))
        assert torch.equal(first, again)
        return first

    one, other = (SampledEngine(EXACT, 100, method, seed=5) for _ in range(2))
    first, second = gradient(one), gradient(one)
    assert not torch.equal(first, second)
    other.draws.call = 1
    assert torch.equal(gradient(other), second)


@pytest.mark.parametrize("method", ["parameter-shift", "spsa"])
def test_the_size_of_blocks_changes_no_sample(monkeypatch, method):
    def run():
        angles = some_angles(SKEWED, 3).requires_grad_()
        p = SampledEngine(EXACT, 100, method, seed=5).probabilities(SKEWED, angles)
        return p.detach(), torch.autograd.grad(p.square().sum(), angles)[0]

    whole = run()
    for numbers in (1, 16, 100):
        monkeypatch.setattr(gradients, "BLOCK_NUMBERS", numbers)
        for ours, theirs in zip(run(), whole, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


@every_method
def test_no_block_is_larger_than_stated(monkeypatch, method):
    sizes = []

    class Counting(StatevectorEngine):
        def probabilities(self, circuit, angles):
            p = super().probabilities(circuit, angles)
            sizes.append(p.numel())
            return p

    circuit = ansatz("ry_cnot", 6, 4)
    angles = some_angles(circuit).requires_grad_()
    monkeypatch.setattr(gradients, "BLOCK_NUMBERS", 2**8)
    SampledEngine(Counting(), "10x", method).probabilities(circuit, angles)[0].backward()
    assert max(sizes) <= 2**8
    if method == "parameter-shift":
        assert sum(sizes) == (1 + 2 * circuit.num_parameters) * 2**6


@pytest.mark.parametrize("batch", [(), (3,), (0,)], ids=str)
def test_straight_through_has_the_exact_gradient_at_the_sampled_value(batch):
    angles = some_angles(SKEWED, *batch).requires_grad_()
    p = SampledEngine(EXACT, 50).probabilities(SKEWED, angles)
    exact = EXACT.probabilities(SKEWED, angles)
    (ours,) = torch.autograd.grad(p.square().sum(), angles)
    (theirs,) = torch.autograd.grad(exact, angles, 2 * p.detach())
    torch.testing.assert_close(ours, theirs)
    if exact.numel():
        assert not torch.equal(p, exact)


def shift_gradients(circuit, angles, cotangent, rows, method="parameter-shift", **options):
    """`rows` independent estimates."""
    many = angles.expand(rows, -1).clone().requires_grad_()
    p = SampledEngine(EXACT, 20, method, **options).probabilities(circuit, many)
    return torch.autograd.grad(p, many, cotangent.expand(rows, -1))[0].numpy()


def exact_gradient(circuit, angles, cotangent):
    angles = angles.clone().requires_grad_()
    return torch.autograd.grad(EXACT.probabilities(circuit, angles), angles, cotangent)[0].numpy()


PAIRS = CircuitBuilder(3).rx(0).ry(1).h(2).rbs(0, 2).rzz(2, 1).rbs(1, 0).p(1).h(1).build()


@pytest.mark.parametrize(
    "circuit", [ansatz("ry_cnot", 3, 2), PAIRS, random_circuit(3, 20, seed=8)], ids=["plain", "pairs", "shared, affine"]
)
def test_sampled_parameter_shift_is_unbiased(circuit):
    angles, rows = some_angles(circuit), 3000
    cotangent = torch.from_numpy(np.random.default_rng(1).normal(size=8))
    found = shift_gradients(circuit, angles, cotangent, rows, seed=9)
    exact = exact_gradient(circuit, angles, cotangent)
    error = found.std(0) / np.sqrt(rows)
    assert (np.abs(found.mean(0) - exact) <= 6 * error + 1e-12).all()
    assert np.abs(exact).max() > 20 * error.max()  # so that a wrong sign or factor shows


def test_the_variance_of_a_shift_gradient_falls_with_its_shots():
    circuit, rows = ansatz("ry_cnot", 3, 2), 2000
    angles, cotangent = some_angles(circuit), torch.linspace(-1, 1, 8, dtype=torch.float64)
    few, many = (
        shift_gradients(circuit, angles, cotangent, rows, seed=2, gradient_shots=shots).var(0) for shots in (25, 400)
    )
    # A ratio of variances has a relative standard error of 2 / sqrt(rows), 4.5%; six of these.
    assert (np.abs(few / many / 16 - 1) < 0.27).all()


def test_sampled_spsa_is_unbiased_up_to_the_square_of_its_step():
    circuit = CircuitBuilder(2).ry(0).rx(1).cx(0, 1).ry(0).build()
    angles, rows = some_angles(circuit), 20_000
    cotangent = torch.tensor([0.2, -1.0, 1.0, 0.4], dtype=torch.float64)
    found = shift_gradients(circuit, angles, cotangent, rows, "spsa", seed=7)
    # step**2/6 (f_jjj + 3 sum_k f_jkk), and a third derivative of an expectation is at most the largest cotangent
    bias = 0.1**2 / 6 * (1 + 3 * 2)
    exact = exact_gradient(circuit, angles, cotangent)
    assert (np.abs(found.mean(0) - exact) < 6 * found.std(0) / np.sqrt(rows) + bias).all()
    assert np.abs(exact).max() > 0.3


@pytest.mark.parametrize("method", ["parameter-shift", "spsa"])
def test_the_gradient_takes_samples_of_its_own(method):
    """At 2**22 shots a gradient is nearly exact, whatever the few shots in front."""
    circuit = ansatz("ry_cnot", 1, 1)
    angles = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    engine = SampledEngine(EXACT, 1, method, gradient_shots=2**22)
    engine.probabilities(circuit, angles)[1].backward()
    assert angles.grad.item() == pytest.approx(np.sin(0.7) / 2, abs=0.01)


def test_straight_through_takes_no_shots_for_a_gradient():
    with pytest.raises(ConfigError, match=r"gradient_shots is 10, but 'straight-through' samples no gradient"):
        SampledEngine(EXACT, 100, gradient_shots=10)


@pytest.mark.parametrize("method", METHODS)
def test_angles_that_are_not_finite_are_named(method):
    circuit = ansatz("ry_cnot", 2, 1)
    with pytest.raises(EngineError, match=r"not finite.*lower the learning rate"):
        SampledEngine(EXACT, 10, method).probabilities(circuit, torch.tensor([0.1, float("nan")]))


@settings(max_examples=30)
@given(circuits(max_qubits=3))
def test_certain_outcomes_are_found_and_impossible_ones_never(circuit):
    angles = some_angles(circuit, dtype=torch.float32)
    right = torch.from_numpy(reference(circuit, angles))
    found = SampledEngine(EXACT, 1000).probabilities(circuit, angles)
    assert not found[right < 1e-13].any()
    assert (found[right > 1 - 1e-13] == 1).all()


def test_frequencies_repair_rounding():
    rng = np.random.default_rng(0)
    p = torch.full((3,), 1 / 3) * (1 + 3e-7)
    assert frequencies(p, 9, rng).sum().item() == pytest.approx(1)
    assert frequencies(torch.tensor([1.0, -1e-9]), 9, rng).tolist() == [1, 0]
    assert frequencies(torch.zeros(0, 4), 9, rng).shape == (0, 4)


@pytest.mark.parametrize("method", METHODS)
def test_no_circuit_is_too_plain(method):
    engine = SampledEngine(EXACT, 10, method)
    assert engine.probabilities(CircuitBuilder(1).x(0).build(), torch.zeros(0)).tolist() == [0, 1]


def test_checks_and_descriptions_reach_the_engine_within():
    engine = SampledEngine(StatevectorEngine("backprop"), "10x", seed=4)
    assert engine.describe() == {
        "engine": "SampledEngine", "shots": "10x", "gradient_shots": "10x", "diff_method": "straight-through",
        "seed": 4, "of": {"engine": "StatevectorEngine", "diff_method": "backprop"},
    }  # fmt: skip
    with pytest.raises(EngineError, match=r"60 qubits .* need about"):
        engine.check(CircuitBuilder(60).build())


class Head(torch.nn.Module):
    def __init__(self, engine, circuit):
        super().__init__()
        self.engine, self.circuit = engine, circuit
        self.angles = torch.nn.Parameter(some_angles(circuit, dtype=torch.float32))
        self.linear = torch.nn.Linear(2**circuit.num_qubits, 3)

    def forward(self, x):
        return (self.linear(self.engine.probabilities(self.circuit, self.angles)) * x).tanh()


@every_method
def test_a_compiled_module_samples_alike(method):
    torch.manual_seed(0)
    head = Head(SampledEngine(EXACT, "10x", method, seed=3), ansatz("ry_cnot", 3, 2))
    twin = copy.deepcopy(head)
    compiled = torch.compile(twin, backend="aot_eager")
    for step in range(3):
        x = torch.full((3,), 1.0 + step)
        ours, theirs = head(x), compiled(x)
        torch.testing.assert_close(ours, theirs)
        ours.sum().backward()
        theirs.sum().backward()
        torch.testing.assert_close(head.angles.grad, twin.angles.grad)
    assert head.engine.draws.call == twin.engine.draws.call == 3


@pytest.mark.parametrize("method", [*METHODS, "surrogate"])
def test_autocast_keeps_the_numbers(method):
    def make():
        if method == "surrogate":
            return Surrogate(SampledEngine(EXACT, 4096), EXACT)
        return SampledEngine(EXACT, 4096, method)

    circuit = ansatz("ryrz_cnot", 3, 2)
    results = []
    for on in (False, True):
        angles = some_angles(circuit, 2, dtype=torch.float32).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=on):
            p = make().probabilities(circuit, angles)
            assert p.dtype == torch.float32
            p[..., 2].sum().backward()
        results.append((p.detach(), angles.grad))
    for plain, cast in zip(*results, strict=True):
        torch.testing.assert_close(plain, cast)
