import copy
import json
import logging
import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from qiskit.circuit import Qubit
from qiskit.primitives import BackendSamplerV2, BitArray, StatevectorEstimator, StatevectorSampler
from qiskit_aer import AerSimulator
from qiskit_aer.primitives import SamplerV2 as AerSampler

from qpeft import engines, extras
from qpeft.engines import EngineEntry, get_engine, register_engine
from qpeft.errors import ConfigError, EngineError, JobError
from qpeft.extras import is_installed
from qpeft.noise import devices
from qpeft.qcircuits import Angle, Circuit, CircuitBuilder, ansatz, sampler_engine
from qpeft.qcircuits.sampler_engine import QiskitSamplerEngine, frequencies_of_bits
from qpeft.qcircuits.transpilation import transpile
from qpeft.training.config import TrainingOptions
from qpeft.training.finetune import train
from tests.qcircuits.qiskit_reference import bit_reversed, final_state, random_circuit
from tests.settings import adapter_settings

FALSE_ALARMS = 1e-6  # chance that a test of sampling fails for a right engine, if its seed were not fixed
SHOTS = 20_000


def runtime_sampler(backend, seed=None):
    from qiskit_ibm_runtime import SamplerV2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return SamplerV2(mode=backend, options=None if seed is None else {"simulator": {"seed_simulator": seed}})


def small_fake():
    from qiskit_ibm_runtime.fake_provider import FakeManilaV2

    return FakeManilaV2()


def statevector():
    return StatevectorSampler(seed=np.random.default_rng(5))


MAKERS = {
    "statevector": lambda: QiskitSamplerEngine(statevector(), SHOTS),
    "backend": lambda: QiskitSamplerEngine(BackendSamplerV2(backend=AerSimulator(seed_simulator=5)), SHOTS),
    "aer": lambda: QiskitSamplerEngine(AerSampler(seed=5), SHOTS, backend=AerSimulator()),
    "runtime": lambda: QiskitSamplerEngine(runtime_sampler(AerSimulator(), seed=5), SHOTS),
}


@pytest.fixture(params=MAKERS)
def engine(request):
    return MAKERS[request.param]()


def exact(circuit, angles):
    return np.abs(final_state(circuit, angles)) ** 2


def largest_error(values, shots=SHOTS):
    """Hoeffding's bound on the error of `values` frequencies, at FALSE_ALARMS in all."""
    return np.sqrt(np.log(2 * values / FALSE_ALARMS) / (2 * shots))


class Lost(Exception):
    pass


class Flaky(StatevectorSampler):
    """Counts its jobs and rows; the jobs whose numbers are in `bad` go wrong, as `how` says."""

    def __init__(self, bad=(), how="result"):
        super().__init__(seed=np.random.default_rng(5))
        self.bad, self.how, self.rows, self.shots = set(bad), how, [], []

    def run(self, pubs, *, shots=None):
        ((circuit, values, shots),) = pubs
        self.rows.append(len(values))
        self.shots.append(shots)
        if len(self.rows) not in self.bad:
            return super().run(pubs)
        if self.how == "run":
            raise Lost("the queue is closed")
        if self.how == "input":
            raise ValueError("no such gate")
        if self.how == "shots":
            return super().run([(circuit, values, shots - 1)])
        if self.how == "rows":
            return super().run([(circuit, values[1:], shots)])
        if self.how == "more shots":
            return super().run([(circuit, values, shots + 1)])
        if self.how == "more rows":
            return super().run([(circuit, np.concatenate([values, values]), shots)])
        if self.how == "bits":
            wider = circuit.remove_final_measurements(inplace=False)
            wider.add_bits([Qubit()])
            wider.measure_all()
            return super().run([(wider, values, shots)])
        return _FailingJob(super().run(pubs))


class _FailingJob:
    def __init__(self, job):
        self.job = job

    def job_id(self):
        return "job-" + self.job.job_id()

    def result(self):
        raise Lost("the fridge is warm")

    def done(self):
        return False

    def in_final_state(self):
        return True


@pytest.mark.parametrize("num_qubits", [1, 2, 4])
def test_frequencies_are_those_of_qiskit_in_our_order(engine, num_qubits):
    circuit = random_circuit(num_qubits, 5 * num_qubits, seed=num_qubits)
    angles = torch.from_numpy(np.random.default_rng(num_qubits).uniform(-3, 3, (3, circuit.num_parameters)))
    right = np.stack([exact(circuit, row) for row in angles.numpy()])
    found = engine.probabilities(circuit, angles)
    assert found.dtype == torch.float64
    assert np.allclose(found.sum(-1), 1, atol=1e-12)
    assert np.allclose(found * SHOTS, (found * SHOTS).round(), atol=1e-6)
    bound = largest_error(right.size)
    assert np.abs(found.numpy() - right).max() <= bound
    if num_qubits > 2:  # the test would notice the wrong order
        assert np.abs(np.stack([bit_reversed(row) for row in right]) - right).max() > 3 * bound


def test_bit_order_of_basis_states(engine):
    for qubit, index in enumerate((4, 2, 1)):  # our qubit 0 is the most significant bit
        circuit = CircuitBuilder(3).x(qubit).build()
        assert engine.probabilities(circuit, torch.zeros(2, 0))[:, index].tolist() == [1, 1]


def test_parameters_that_act_nowhere_or_in_another_order_are_bound_right():
    operations = CircuitBuilder(3).ry(0, angle=Angle(2)).ry(1, angle=Angle(0)).build().operations
    circuit = Circuit(3, operations, 4)
    angles = torch.tensor([0.0, 1.0, np.pi, 2.0])
    assert MAKERS["statevector"]().probabilities(circuit, angles)[4] == 1


@pytest.mark.parametrize("name", ["statevector", "aer"])
def test_gradients_are_right_within_the_error_of_sampling(name):
    """Each derivative is a sum of terms of `shots` measurements, of which one changes it by a known amount at most."""
    engine, circuit = MAKERS[name](), ansatz("simplified_two_design", 3, 1)
    angles = torch.linspace(-1.2, 2.0, circuit.num_parameters, dtype=torch.float64, requires_grad=True)
    cotangent = torch.linspace(-1, 1, 8, dtype=torch.float64)
    (engine.probabilities(circuit, angles) * cotangent).sum().backward()
    step, plain = 1e-5, angles.detach().numpy()
    moves = step * np.eye(circuit.num_parameters)
    right = [(exact(circuit, plain + m) - exact(circuit, plain - m)) @ cotangent.numpy() / (2 * step) for m in moves]
    bound = 2 * np.sqrt(2 * 0.5**2 * np.log(2 * len(right) / FALSE_ALARMS) / (2 * SHOTS))  # entries in -1 to 1
    assert np.abs(angles.grad.numpy() - right).max() <= bound
    assert np.abs(right).max() > 10 * bound


def test_all_rows_of_a_step_are_one_job():
    sampler = Flaky()
    engine, circuit = QiskitSamplerEngine(sampler, 50, gradient_shots="2x"), ansatz("ry_cnot", 3, 2)
    angles = torch.zeros(2, 2, 6, requires_grad=True)
    engine.probabilities(circuit, angles).sum().backward()
    assert sampler.rows == [4, 4 * 2 * 6]
    assert sampler.shots == [50, 16]


def test_the_same_call_is_measured_once():
    sampler = Flaky()
    engine, circuit = QiskitSamplerEngine(sampler, 100), ansatz("ry_cnot", 2, 1)
    angles = torch.full((2,), 0.7)
    first, second = engine.probabilities(circuit, angles), engine.probabilities(circuit, angles)
    assert not torch.equal(first, second) and len(sampler.rows) == 2  # another call, another sample
    engine.draws.call = 1
    assert torch.equal(engine.probabilities(circuit, angles), second) and len(sampler.rows) == 2
    engine.draws.call = 1
    engine.probabilities(circuit, angles + 1e-6)
    assert len(sampler.rows) == 3


def test_a_deep_copy_shares_the_sampler_and_answers_alike():
    sampler = Flaky()
    engine, circuit = QiskitSamplerEngine(sampler, 100), ansatz("ry_cnot", 2, 1)
    angles = torch.full((2,), 0.7)
    twin = copy.deepcopy(engine)
    assert twin.sampler is sampler and twin.draws is not engine.draws
    value = engine.probabilities(circuit, angles)
    assert twin.draws.call == 0
    assert torch.equal(twin.probabilities(circuit, angles), value)
    assert not torch.equal(twin.probabilities(circuit, angles), value)


def test_reseeding_makes_a_local_simulator_repeat():
    def run(seed):
        sampler = BackendSamplerV2(backend=AerSimulator())
        engine = QiskitSamplerEngine(
            sampler, 200, seed=seed, reseed=lambda number: setattr(sampler.options, "seed_simulator", number)
        )
        circuit = ansatz("ry_cnot", 2, 1)
        angles = torch.full((3, 2), 0.7, requires_grad=True)
        values = [engine.probabilities(circuit, angles) for _ in range(2)]
        (gradient,) = torch.autograd.grad(values[1][:, 0].sum(), angles)
        return [*(value.detach() for value in values), gradient]

    first, again, other = run(3), run(3), run(4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0][0], first[0][1])  # nor do the rows of one job repeat each other


@pytest.mark.parametrize("how", ["run", "result", "shots", "rows"])
def test_a_job_that_goes_wrong_is_run_again(how, caplog):
    sampler, slept = Flaky({1, 2}, how), []
    engine = QiskitSamplerEngine(sampler, 30, backoff=2, sleep=slept.append)
    with caplog.at_level(logging.WARNING):
        found = engine.probabilities(ansatz("ry_cnot", 2, 1), torch.zeros(3, 2))
    assert found[:, 0].tolist() == [1, 1, 1]
    assert sampler.rows == [3, 3, 3] and slept == [2, 4]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert messages[0].startswith("attempt 1 of 4 failed for 3 circuit(s) of 30 shots")
    reason = {
        "run": "Lost: the queue is closed", "result": "Lost: the fridge is warm",
        "shots": "asked for 30 shots, the result has 29",
        "rows": "asked for 3 circuits, the result has 2",
    }[how]  # fmt: skip
    assert reason in messages[0]


def test_what_is_lost_in_the_end_is_said():
    sampler = Flaky(range(100))
    engine = QiskitSamplerEngine(sampler, "10x", retries=2, sleep=lambda seconds: None)
    with pytest.raises(JobError) as caught:
        engine.probabilities(ansatz("ry_cnot", 2, 1), torch.zeros(3, 2))
    said = str(caught.value)
    for part in ("3 circuit(s) of 40 shots", "(job job-", "3 attempt(s)", "Lost: the fridge is warm", "--resume"):
        assert part in said
    assert isinstance(caught.value.__cause__, Lost)
    assert len(sampler.rows) == 3


def test_a_gradient_that_is_lost_raises_the_same():
    engine = QiskitSamplerEngine(Flaky({2}), 20, retries=0)
    angles = torch.zeros(2, requires_grad=True)
    values = engine.probabilities(ansatz("ry_cnot", 2, 1), angles)
    with pytest.raises(JobError, match=r"lost: 4 circuit\(s\) of 20 shots"):
        values[0].backward()


def test_what_the_sampler_refuses_is_not_tried_again():
    sampler = Flaky({1}, "input")
    with pytest.raises(EngineError, match="Flaky refuses the job: ValueError: no such gate") as caught:
        QiskitSamplerEngine(sampler, 20).probabilities(ansatz("ry_cnot", 2, 1), torch.zeros(2))
    assert not isinstance(caught.value, JobError) and len(sampler.rows) == 1


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("more shots", "asked for 20 shots, the result has 21; set the sampler up to run what it is given"),
        ("more rows", "asked for 1 circuits, the result has 2"),
        ("bits", "asked for outcomes of 2 bits, the result has 3"),
    ],
)
def test_what_would_come_out_wrong_again_is_not_paid_for_again(how, message):
    sampler = Flaky({1}, how)
    with pytest.raises(EngineError, match=message):
        QiskitSamplerEngine(sampler, 20).probabilities(ansatz("ry_cnot", 2, 1), torch.zeros(2))
    assert len(sampler.rows) == 1


def test_unclassified_results_are_refused_at_once():
    class Analog(StatevectorSampler):
        def run(self, pubs, *, shots=None):
            result = super().run(pubs).result()
            result[0].data.meas = np.zeros(3)
            return FinishedJob(result)

    class FinishedJob:
        def __init__(self, found):
            self.found = found

        def result(self):
            return self.found

    with pytest.raises(EngineError, match="ndarray for the register 'meas' instead of a BitArray"):
        QiskitSamplerEngine(Analog(), 20).probabilities(ansatz("ry_cnot", 2, 1), torch.zeros(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QiskitSamplerEngine(StatevectorEstimator(), 10), "the sampler is StatevectorEstimator; expected"),
        (lambda: QiskitSamplerEngine(StatevectorSampler, 10), "the sampler is StatevectorSampler, a class; expected"),
        (lambda: QiskitSamplerEngine(AerSimulator(), 10), "qiskit.primitives.BaseSamplerV2"),
        (lambda: QiskitSamplerEngine(statevector(), None), "shots are None; expected a number of shots"),
        (lambda: QiskitSamplerEngine(statevector(), 0), "they must be a whole number from 1"),
        (lambda: QiskitSamplerEngine(AerSampler(), 10), "SamplerV2 does not say which device it runs on"),
        (lambda: QiskitSamplerEngine(statevector(), 10, backend="ibm_fez"), "the backend is str; expected"),
        (
            lambda: QiskitSamplerEngine(runtime_sampler(small_fake()), 10, backend=AerSimulator()),
            "the backend is aer_simulator, but the sampler runs on fake_manila; leave backend= out",
        ),
        (
            lambda: QiskitSamplerEngine(statevector(), 10, diff_method="adjoint"),
            "unknown diff_method of QiskitSamplerEngine",
        ),
        (lambda: QiskitSamplerEngine(statevector(), 10, retries=-1), "retries is -1"),
        (lambda: get_engine("hardware:100"), "give .* as hardware@DEVICE"),
        (lambda: get_engine("hardware@fake_fez"), "only measures; give it shots: hardware@fake_fez:4096"),
        (lambda: get_engine("hardware@fake_fez:100", "adjoint"), "unknown diff_method of engine .* 'adjoint'"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_device_that_is_too_small_or_takes_fewer_shots_is_named_before_any_work():
    sampler = runtime_sampler(small_fake())
    engine = QiskitSamplerEngine(sampler, 10)
    with pytest.raises(EngineError, match="the circuit has 6 qubits; fake_manila has 5"):
        engine.check(ansatz("ry_cnot", 6, 1))

    backend = small_fake()
    backend.max_shots = 1000
    for shots in (1001, "300x"):
        engine = QiskitSamplerEngine(runtime_sampler(backend), 10, gradient_shots=shots)
        with pytest.raises(EngineError, match=rf"gradient_shots {shots} are .* fake_manila takes at most 1,000"):
            engine.check(ansatz("ry_cnot", 2, 1))
    engine.check(ansatz("ry_cnot", 1, 1))  # 300x is 600 here


def test_the_description_is_plain_data():
    described = QiskitSamplerEngine(runtime_sampler(small_fake()), "10x").describe()
    assert json.loads(json.dumps(described)) == described
    assert (described["backend"], described["shots"]) == ("fake_manila", "10x")
    assert described["sampler"] == "qiskit_ibm_runtime.sampler.SamplerV2"


def test_a_device_gets_its_own_gates_on_its_own_qubits_and_its_noise():
    sent = []

    class Spy(BackendSamplerV2):
        def run(self, pubs, *, shots=None):
            sent.append(pubs[0][0])
            return super().run(pubs)

    backend = small_fake()
    engine = QiskitSamplerEngine(Spy(backend=backend), 2000)
    found = engine.probabilities(CircuitBuilder(3).x(0).cx(0, 1).build(), torch.zeros(2, 0))
    assert engine.backend is backend
    assert sent[0].num_qubits == 5 and set(sent[0].count_ops()) <= {"cx", "rz", "sx", "x", "measure"}
    assert (found[:, 6] > 0.8).all() and (found[:, 6] < 1).all()  # 110 in our order; its readout errs by per cents


@given(st.integers(1, 11), st.integers(1, 5), st.integers(1, 30), st.integers(0, 99), st.sampled_from([1, 64, 2**22]))
def test_outcomes_are_counted_as_qiskit_counts_them(num_qubits, rows, shots, seed, block):
    values = np.random.default_rng(seed).integers(0, 2**num_qubits, (rows, shots))
    size = -(-num_qubits // 8)
    packed = np.stack([(values >> 8 * k) & 255 for k in reversed(range(size))], axis=-1).astype(np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler_engine, "BLOCK_NUMBERS", block)
        found = torch.cat(list(frequencies_of_bits(packed, num_qubits)))
    right = np.zeros((rows, 2**num_qubits))
    bits = BitArray(packed, num_qubits)
    for row in range(rows):
        for index, count in bits.get_int_counts(row).items():
            right[row, index] = count / shots
    assert np.array_equal(found.numpy(), right)


def test_a_backend_that_was_fetched_twice_is_one_device():
    again = small_fake()
    assert QiskitSamplerEngine(runtime_sampler(small_fake()), 10, backend=again).backend is again


@pytest.fixture
def seeds_of_the_transpiler(monkeypatch):
    """What each transpilation is seeded with."""
    seeds = []

    def spy(circuit, backend, **options):
        seeds.append(options["seed"])
        return transpile(circuit, backend, **options)

    monkeypatch.setattr(sampler_engine, "transpile", spy)
    return seeds


def test_the_transpiler_does_not_follow_the_seed_of_the_run(seeds_of_the_transpiler):
    circuit, angles = ansatz("ry_cnot", 2, 1), torch.zeros(2)
    engine = QiskitSamplerEngine(statevector(), 10, seed=7)
    engine.probabilities(circuit, angles)
    other = QiskitSamplerEngine(statevector(), 10, seed=7, seed_transpiler=5)
    other.probabilities(circuit, angles)
    assert seeds_of_the_transpiler == [0, 5]
    assert [e.describe()["seed_transpiler"] for e in (engine, other)] == [0, 5]


def test_how_often_a_device_is_tried_again_can_be_said():
    engine = QiskitSamplerEngine.on_backend(small_fake(), 10, retries=1, backoff=0.5, seed_transpiler=3)
    assert engine.retry.delays == (0.5,)
    assert (engine.describe()["retries"], engine.describe()["seed_transpiler"]) == (1, 3)


def test_an_engine_comes_out_of_a_pickle_as_it_went_in():
    engine, circuit = QiskitSamplerEngine.on_backend(small_fake(), 200, seed=4), ansatz("ry_cnot", 2, 1)
    twin = pickle.loads(pickle.dumps(engine))
    assert twin.describe() == engine.describe()
    assert twin.reseed.sampler is twin.sampler is not engine.sampler
    angles = torch.full((3, 2), 0.7)
    assert torch.equal(twin.probabilities(circuit, angles), engine.probabilities(circuit, angles))


def test_only_a_snapshot_needs_aer(monkeypatch):
    """Without Aer, the runtime's local mode leaves the noise out."""

    def missing(*modules):
        return "qiskit_aer" not in modules and is_installed(*modules)

    for module in (engines, extras):
        monkeypatch.setattr(module, "is_installed", missing)
    monkeypatch.setattr(devices, "live", lambda name: small_fake())
    assert get_engine("hardware@ibm_manila:10").backend.name == "fake_manila"
    with pytest.raises(extras.MissingExtraError, match=r"engine 'hardware@fake_manila:10' needs qiskit-aer, which is"):
        get_engine("hardware@fake_manila:10")


def test_the_registry_runs_a_snapshot():
    engine = get_engine("hardware@fake_manila:500", "spsa", "10x", seed=3)
    found = engine.probabilities(CircuitBuilder(2).x(0).build(), torch.zeros(2, 0))
    assert ((found[:, 2] > 0.8) & (found[:, 2] < 1)).all()  # 10 in our order, but for errors of readout
    described = engine.describe()
    assert described["sampler"] == "qiskit_ibm_runtime.sampler.SamplerV2"
    assert (described["backend"], described["shots"], described["gradient_shots"]) == ("fake_manila", "500", "10x")
    assert (described["diff_method"], described["seed"]) == ("spsa", 3)


@pytest.mark.slow  # the runtime builds the noise of the whole device for each job
def test_a_device_of_156_qubits_runs_as_many_as_the_circuit_has():
    """Its state would have 2**156 numbers."""
    engine = get_engine("hardware@fake_fez:10000", seed=1)
    found = engine.probabilities(CircuitBuilder(2).x(0).build(), torch.zeros(1, 0))
    assert engine.backend.num_qubits == 156
    assert 0.8 < found[0, 2] < 1  # 10 in our order; the best two qubits of the device err in some 0.4 % of the shots


def test_the_local_mode_repeats_itself():
    def run(seed):
        engine = QiskitSamplerEngine.on_backend(small_fake(), 500, seed=seed)
        return engine.probabilities(ansatz("ry_cnot", 2, 1), torch.full((2,), 0.7))

    first, again, other = run(1), run(1), run(2)
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.fixture
def dying(monkeypatch):
    """The device of an engine `dying`; its 9th job is lost for good, later ones work."""
    sampler = Flaky({9})

    def make(name, options):
        return QiskitSamplerEngine(sampler, name.shots, diff_method=options.diff_method, seed=options.seed, retries=0)

    register_engine("dying", EngineEntry(make, "fails once", (), ("parameter-shift", "spsa")))
    yield sampler
    del engines.ENGINES._entries["dying"]


def test_training_goes_on_from_its_checkpoint_after_a_lost_job(dying, make_config):
    adapter = adapter_settings(rank=1, targets=["lm_head"], chunk_size=64, reps=1, engine="dying:200")
    config = make_config(adapter, training=TrainingOptions(steps=6, batch_size=2, warmup_steps=1), save_every=2)
    with pytest.raises(JobError, match="--resume"):
        train(config)
    assert len(dying.rows) == 9
    result = train(replace(config, run=replace(config.run, resume=True)))
    assert [step for step, _ in result.curve] == [1, 2, 3, 4, 5, 6]
    assert result.metrics["export"]["max_difference"] < 1e-4
    assert result.metrics["generator"]["engine"]["engine"] == "QiskitSamplerEngine"
    assert 2 * 2 <= len(dying.rows) - 9 <= 2 * 4 + 1  # the steps left, and the last state
    assert (result.folder / "report.md").exists()
