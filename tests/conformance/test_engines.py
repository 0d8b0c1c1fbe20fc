"""Every engine against Qiskit's `Statevector`, an engine of a third party, and engines with a fault each."""

import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from qiskit.primitives import StatevectorSampler
from qiskit.quantum_info import Statevector

from qpeft.engines import ENGINES, EngineEntry, get_engine, register_engine
from qpeft.errors import ConfigError
from qpeft.qcircuits import (
    ANSATZE,
    BlackBoxEngine,
    Circuit,
    Operation,
    SampledEngine,
    StatevectorEngine,
    Surrogate,
    gate,
)
from qpeft.qcircuits.conformance import assert_engine_conforms
from qpeft.qcircuits.surrogate import substitute
from tests.qcircuits.qiskit_reference import to_qiskit


@cache
def _qiskit(circuit, angles):
    return Statevector(to_qiskit(circuit, np.frombuffer(angles))).probabilities()


def qiskit_says(circuit, angles):
    return _qiskit(circuit, angles.tobytes())


def _aer(**options):
    from qpeft.qcircuits.aer_engine import AerEngine

    return AerEngine(**options)


def _statevector_sampler(shots):
    from qpeft.qcircuits.sampler_engine import QiskitSamplerEngine

    sampler = StatevectorSampler()

    def reseed(number):  # a generator, since an integer draws equal numbers for each circuit of a job
        sampler._seed = np.random.default_rng(number)

    return QiskitSamplerEngine(sampler, shots, reseed=reseed)


def _local_mode(shots):
    from qiskit_aer import AerSimulator

    from qpeft.qcircuits.sampler_engine import QiskitSamplerEngine

    return QiskitSamplerEngine.on_backend(AerSimulator(), shots)


def named(text, gradient="exact", max_qubits=5, **options):
    """An engine by its name, and what is asked of it; dear ones get smaller circuits alone."""
    asked = {"shots": text.partition(":")[2] or None, "gradient": gradient, "max_qubits": max_qubits}
    asked["gradient_shots"] = options.get("gradient_shots")
    label = " ".join([text, *map(str, options.values())])
    return pytest.param(lambda: get_engine(text, **options), asked, id=label)


ROWS = [
    named("exact", diff_method="adjoint"),
    named("exact", diff_method="backprop"),
    named("exact:4096", diff_method="straight-through"),
    named("exact:4096", "sampled", diff_method="parameter-shift"),
    named("exact:4096", "stochastic", diff_method="spsa"),
    named("exact:1", "stochastic", diff_method="parameter-shift", seed=3),  # no bound on gradients of single shots
    named("exact:10x", diff_method="straight-through"),
    named("exact:20x", "sampled", diff_method="parameter-shift", gradient_shots="1000x"),
    pytest.param(
        lambda: Surrogate(SampledEngine(StatevectorEngine(), 4096), StatevectorEngine("backprop")),
        {"shots": 4096},
        id="Surrogate",
    ),
    named("aer"),
    named("aer", "stochastic", 2, diff_method="spsa"),
    named("aer:4096", "sampled", 3, diff_method="parameter-shift"),
    named("aer:4096", "exact", 2, diff_method="straight-through"),
    pytest.param(lambda: _aer(method="density_matrix"), {"max_qubits": 3}, id="aer density_matrix"),
    named("pennylane", diff_method="backprop"),
    named("pennylane", "exact", 2, diff_method="adjoint"),
    named("pennylane", "exact", 3, diff_method="parameter-shift"),
    named("pennylane", "exact", 2, diff_method="finite-diff"),
    named("pennylane", "exact", 2, diff_method="hadamard"),
    named("pennylane", "stochastic", 2, diff_method="spsa"),
    named("pennylane:1000", "sampled", 2, diff_method="parameter-shift"),
    named("pennylane@lightning.qubit", diff_method="best"),
    named("pennylane@lightning.qubit", "exact", 2, diff_method="parameter-shift"),
    named("pennylane@lightning.qubit:2000", "sampled", 3, diff_method="parameter-shift"),
    named("pennylane@lightning.qubit:20x", "stochastic", 2, diff_method="spsa"),
    named("pennylane@default.mixed", "exact", 3, diff_method="best"),
    named("pennylane@default.mixed", "exact", 2, diff_method="parameter-shift"),
    pytest.param(
        lambda: _statevector_sampler(1000),
        {"shots": 1000, "gradient": "sampled", "max_qubits": 3},
        id="StatevectorSampler",
    ),
    pytest.param(
        lambda: _local_mode(1000), {"shots": 1000, "gradient": "sampled", "max_qubits": 2}, id="runtime, local mode"
    ),
]


@pytest.mark.parametrize(("make", "options"), ROWS)
def test_an_engine_agrees_with_qiskit(make, options):
    assert 0 < assert_engine_conforms(make(), qiskit_says, **options) < 1


@pytest.mark.parametrize(
    ("name", "gradient"), [("pauli@ibm_torino:20x", "exact"), ("aer@ibm_torino:20x", "sampled")]
)  # fmt: skip
def test_samples_under_noise_agree_with_the_exact_noisy_engine(name, gradient):
    reference = get_engine("pauli@ibm_torino")
    assert 0 < assert_engine_conforms(get_engine(name), reference, shots="20x", gradient=gradient, max_qubits=2) < 1


class NumpyEngine(BlackBoxEngine):
    """What a third party writes: one matrix a gate, in numpy."""

    def evaluate(self, circuit, angles, shots, stream):
        rng = stream.generator()
        for row in angles.double().numpy():
            state = np.zeros([2] * circuit.num_qubits, dtype=complex)
            state.flat[0] = 1
            for operation in circuit.operations:
                angle = 0.0 if operation.angle is None else operation.angle.offset
                if operation.angle is not None and operation.angle.index is not None:
                    angle += operation.angle.scale * row[operation.angle.index]
                qubits, count = operation.qubits, len(operation.qubits)
                matrix = gate(operation.gate).at(angle).reshape([2] * 2 * count)
                state = np.moveaxis(
                    np.tensordot(matrix, state, (range(count, 2 * count), qubits)), range(count), qubits
                )
            p = np.abs(state.reshape(-1)) ** 2
            if shots is not None:
                p = rng.multinomial(shots, p / p.sum()) / shots
            yield torch.from_numpy(p)[None]


TOY = EngineEntry(
    lambda name, options: NumpyEngine(name.shots, options.diff_method, options.gradient_shots, options.seed),
    "one matrix a gate, in numpy",
    diff_methods=NumpyEngine.diff_methods,
    sampled_diff_methods=NumpyEngine.diff_methods,
)


@pytest.fixture
def own_registry(monkeypatch):
    monkeypatch.setattr(ENGINES, "_entries", dict(ENGINES._entries))


@pytest.mark.parametrize(
    ("name", "diff_method", "gradient"),
    [
        ("toy", "parameter-shift", "exact"),
        ("toy", "spsa", "stochastic"),
        ("toy:1000x", "parameter-shift", "sampled"),
        ("toy:10x", "spsa", "stochastic"),
    ],
)
def test_an_engine_of_a_third_party_is_registered_and_checked(own_registry, name, diff_method, gradient):
    register_engine("toy", TOY)
    engine = get_engine(name, diff_method)
    assert isinstance(engine, NumpyEngine)
    assert_engine_conforms(engine, qiskit_says, shots=name.partition(":")[2] or None, gradient=gradient, max_qubits=3)


def test_a_name_is_registered_once_and_fits_the_grammar(own_registry):
    register_engine("toy", TOY)
    with pytest.raises(ConfigError, match="'toy' is already registered"):
        register_engine("toy", TOY)
    with pytest.raises(ConfigError, match="none of them '@', ':' or space"):
        register_engine("toy:10x", TOY)


class Faulty(StatevectorEngine):
    """The exact engine, with what it answers spoilt."""

    def probabilities(self, circuit, angles):
        return self.spoil(super().probabilities(circuit, angles), circuit)

    def spoil(self, p, circuit):
        return p


class BitReversed(Faulty):
    def spoil(self, p, circuit):
        n = circuit.num_qubits
        batch = p.ndim - 1
        axes = [*range(batch), *reversed(range(batch, batch + n))]
        return p.view(*p.shape[:-1], *[2] * n).permute(axes).reshape(p.shape)


class Unnormalised(Faulty):
    def spoil(self, p, circuit):
        return p * 1.001


class Negative(Faulty):
    def spoil(self, p, circuit):
        moved = torch.zeros_like(p)
        moved[..., 0], moved[..., -1] = 1, -1  # keeps the sum
        return p + moved


class NotFinite(Faulty):
    def spoil(self, p, circuit):
        return p / 0


class WrongSign(Faulty):
    def spoil(self, p, circuit):
        return substitute(p.detach(), -p)


class HalfGradient(Faulty):
    def spoil(self, p, circuit):
        return substitute(p.detach(), 0.5 * p)


class Detached(Faulty):
    def spoil(self, p, circuit):
        return p.detach()


class AlwaysFloat32(Faulty):
    def spoil(self, p, circuit):
        return p.float()


class AlwaysFloat64(Faulty):
    def spoil(self, p, circuit):
        return p.double()


class LosesAxis(Faulty):
    def spoil(self, p, circuit):
        return p.reshape(-1, p.shape[-1])


class AlwaysGraph(Faulty):
    def spoil(self, p, circuit):
        with torch.enable_grad():
            return p + torch.zeros((), requires_grad=True)


class OneBackward(Faulty):
    def spoil(self, p, circuit):
        used = []

        def once(gradient):
            used.append(1)
            return gradient if len(used) == 1 else 2 * gradient

        if p.requires_grad:
            p.register_hook(once)
        return p


class Coarse(Faulty):
    def spoil(self, p, circuit):
        return p.bfloat16().to(p.dtype)


class IgnoresOffset(StatevectorEngine):
    def probabilities(self, circuit, angles):
        return super().probabilities(_without(circuit, offset=0.0), angles)


class IgnoresScale(StatevectorEngine):
    def probabilities(self, circuit, angles):
        return super().probabilities(_without(circuit, scale=1.0), angles)


def _without(circuit, **part):
    operations = [
        o if o.angle is None else Operation(o.gate, o.qubits, replace(o.angle, **part)) for o in circuit.operations
    ]
    return Circuit(circuit.num_qubits, tuple(operations), circuit.num_parameters)


class TakesAnything(StatevectorEngine):
    def probabilities(self, circuit, angles):
        angles = torch.atleast_1d(angles if angles.is_floating_point() else angles.double())
        missing = circuit.num_parameters - angles.shape[-1]
        return super().probabilities(circuit, torch.nn.functional.pad(angles, (0, max(0, missing))))


class PlainErrors(StatevectorEngine):
    def probabilities(self, circuit, angles):
        try:
            return super().probabilities(circuit, angles)
        except ValueError as error:
            raise RuntimeError("it broke") from error


class NoCopy(Faulty):
    def spoil(self, p, circuit):
        return p if not hasattr(self, "copied") else p.flip(-1)

    def __deepcopy__(self, memo):
        twin = type(self)()
        object.__setattr__(twin, "copied", True)
        return twin


class NoJson(StatevectorEngine):
    def describe(self):
        return {"engine": "NoJson", "shape": (1, 2)}


class Refuses(StatevectorEngine):
    def check(self, circuit, dtype=torch.float32, device="cpu"):
        raise RuntimeError("not today")


FAULTS = {
    BitReversed: r"- not symmetric, N=3: batch \(\) of torch.float64: probabilities deviate by 0\.\d+",
    Unnormalised: r"- ry_cnot, N=1: .* probabilities deviate by 0.00\d+",
    Negative: r"a probability is -",
    NotFinite: "probabilities are not finite",
    WrongSign: r"- random, N=1, gradient: batch \(2,\) of torch.float64: the gradient deviates by [\d.]+",
    HalfGradient: r"- random, N=1, gradient: batch \(2,\) of torch.float64: the gradient deviates by [\d.]+",
    Detached: "the answer is detached from the angles",
    AlwaysFloat32: r"the answer is .*torch.float32.*, expected .*torch.float64",
    AlwaysFloat64: r"the answer is .*torch.float64.*, expected .*torch.float32",
    LosesAxis: r"the answer is \(\(1, 2\), .*, expected \(\(2,\), ",
    AlwaysGraph: r"- random, N=5, graph: the answer needs a gradient although the angles do not",
    OneBackward: r"a second backward differs by [\d.]+",
    Coarse: r"probabilities deviate by 0.00\d+ from the reference",
    IgnoresOffset: r"- random, N=1: batch \(\) of torch.float64: probabilities deviate by 0\.\d+",
    IgnoresScale: r"- random, N=1: batch \(\) of torch.float64: probabilities deviate by 0\.\d+",
    TakesAnything: "errors: one angle too few: no EngineError; integer angles: no EngineError; a tensor without",
    PlainErrors: "one angle too many: RuntimeError instead of EngineError: it broke",
    NoCopy: r"- random, N=5, deepcopy: a deep copy answers otherwise, by 0\.\d+",
    NoJson: r"- describe: describe\(\) is other data after a round trip of JSON",
    Refuses: "RuntimeError: not today",
}


@pytest.mark.parametrize(("faulty", "message"), FAULTS.items(), ids=[faulty.__name__ for faulty in FAULTS])
def test_the_suite_catches(faulty, message):
    with pytest.raises(AssertionError, match=message):
        assert_engine_conforms(faulty())


@pytest.mark.parametrize("faulty", [BitReversed, IgnoresOffset, IgnoresScale])
def test_the_suite_catches_through_shots(faulty):
    with pytest.raises(AssertionError, match=r"frequencies of 1000 shots deviate by 0\.\d+ .*more than sampling"):
        assert_engine_conforms(SampledEngine(faulty(), 1000), shots=1000)


@pytest.mark.parametrize("faulty", [WrongSign, Detached, HalfGradient])
def test_the_suite_catches_a_fault_of_the_backward_engine(faulty):
    with pytest.raises(AssertionError, match=r"gradient"):
        assert_engine_conforms(Surrogate(SampledEngine(StatevectorEngine(), 1000), faulty()), shots=1000)


class WrongShift(SampledEngine):
    """Twice the gradient, from shifted circuits that are sampled."""

    def _vjp(self, *given):
        return 2 * super()._vjp(*given)


def test_the_suite_catches_a_wrong_sampled_gradient():
    with pytest.raises(AssertionError, match="the gradient deviates by"):
        assert_engine_conforms(
            WrongShift(StatevectorEngine(), 10_000, "parameter-shift"), shots=10_000, gradient="sampled"
        )


class MoreNoise(SampledEngine):
    """A quarter of the measurements it is asked for."""

    @staticmethod
    def _number(shots, circuit):
        return None if shots is None else shots.number(circuit.num_qubits) // 4


def test_the_suite_catches_shots_that_are_ignored():
    with pytest.raises(
        AssertionError, match=r"(?s)frequencies are no multiples of 1 / 100.*two calls give the same sample"
    ):
        assert_engine_conforms(StatevectorEngine(), shots=100, gradient="stochastic", max_qubits=3)


def test_the_suite_catches_a_sample_that_never_changes():
    class Stuck(SampledEngine):
        def probabilities(self, circuit, angles):
            self.draws.call = 0
            return super().probabilities(circuit, angles)

    with pytest.raises(AssertionError, match="- random, N=5, sampling: two calls give the same sample"):
        assert_engine_conforms(Stuck(StatevectorEngine(), 1000), shots=1000)


def test_the_suite_catches_fewer_shots_than_stated():
    with pytest.raises(AssertionError, match="more than sampling explains"):
        assert_engine_conforms(MoreNoise(StatevectorEngine(), 4000, "spsa"), shots=16_000, gradient="stochastic")


def test_correct_sampling_passes_with_every_seed():
    for seed in range(10):  # the stated chance of a false alarm is 1e-5 in all
        engine = SampledEngine(StatevectorEngine(), "10x", "parameter-shift", seed=seed)
        assert_engine_conforms(engine, shots="10x", gradient="sampled", max_qubits=3)


def test_every_failure_has_a_line_of_its_own():
    with pytest.raises(AssertionError) as caught:
        assert_engine_conforms(BitReversed())
    first, *lines = str(caught.value).splitlines()
    told = re.fullmatch(r"BitReversed .* fails (\d+) checks, and a probability deviates by up to ([\d.]+):", first)
    assert int(told[1]) == len(lines)
    assert 0.1 < float(told[2]) < 1
    for name in ANSATZE:
        assert sum(line.startswith(f"- {name}, N=") for line in lines) >= 3


def test_a_reference_of_another_device_is_taken():
    def noisy(circuit, angles):
        return 0.9 * qiskit_says(circuit, angles) + 0.1 / 2**circuit.num_qubits

    class Depolarised(Faulty):
        def spoil(self, p, circuit):
            return 0.9 * p + 0.1 / p.shape[-1]

    assert assert_engine_conforms(Depolarised(), noisy) < 1e-6
    with pytest.raises(AssertionError, match="probabilities deviate"):
        assert_engine_conforms(Depolarised())


@pytest.mark.parametrize("options", [{"gradient": "sampled"}, {"gradient": "exat"}, {"max_qubits": 0}], ids=str)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ConfigError, match=r"needs shots|Did you mean 'exact'|at least 1"):
        assert_engine_conforms(StatevectorEngine(), **options)
