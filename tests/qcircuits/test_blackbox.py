import copy
import json
import math

import pytest
import torch
from torch.autograd import gradcheck

from qpeft.errors import ConfigError, EngineError
from qpeft.qcircuits import Angle, BlackBoxEngine, CircuitBuilder, SampledEngine, StatevectorEngine, ansatz
from qpeft.qcircuits.blackbox import SPSA_STEP_EXACT, SPSA_STEP_SAMPLED
from qpeft.qcircuits.seeding import Purpose, Stream

CIRCUIT = CircuitBuilder(2).ry(0).cx(0, 1).rx(1, angle=Angle(0, -0.5, 0.2)).rbs(0, 1).build()  # P=2, three places
PLACES, SHIFTED = 3, 2 + 2 + 4


class Recording(BlackBoxEngine):
    """The exact probabilities, and what was asked."""

    def __init__(self, *given, **options):
        super().__init__(*given, **options)
        self.asked = []

    def evaluate(self, circuit, angles, shots, stream):
        self.asked.append((circuit, angles, shots, stream))
        return StatevectorEngine().probabilities(circuit, angles).split(2)


def some_angles(*batch, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    return (3 * torch.randn(*batch, CIRCUIT.num_parameters, generator=generator, dtype=dtype)).requires_grad_()


def upstream(p):
    return torch.randn(p.shape, generator=torch.Generator().manual_seed(4), dtype=p.dtype)


def gradient(engine, angles, **options):
    p = engine.probabilities(CIRCUIT, angles)
    return torch.autograd.grad(p, angles, upstream(p), **options)[0]


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (1, 1, 2), (0,)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_any_batch_is_one_list_of_angles(batch, dtype):
    engine, angles = Recording(), some_angles(*batch, dtype=dtype)
    p = engine.probabilities(CIRCUIT, angles)
    torch.testing.assert_close(p, StatevectorEngine().probabilities(CIRCUIT, angles))
    torch.testing.assert_close(gradient(engine, angles), gradient(StatevectorEngine(), angles))
    for circuit, asked, _, _ in engine.asked:
        assert asked.shape[1:] == (circuit.num_parameters,) == (PLACES,)
        assert not asked.requires_grad


def test_a_gradient_is_evaluated_only_when_asked_for():
    engine, angles = Recording(), some_angles(5)
    p = engine.probabilities(CIRCUIT, angles)
    assert [tuple(asked.shape) for _, asked, _, _ in engine.asked] == [(5, PLACES)]
    p.sum().backward()
    assert [tuple(asked.shape) for _, asked, _, _ in engine.asked[1:]] == [(5 * SHIFTED, PLACES)]


def test_spsa_asks_for_two_circuits():
    engine, angles = Recording(diff_method="spsa"), some_angles(5)
    gradient(engine, angles)
    assert [tuple(asked.shape) for _, asked, _, _ in engine.asked] == [(5, PLACES), (10, PLACES)]


@pytest.mark.parametrize(("shots", "step"), [(None, SPSA_STEP_EXACT), (100, SPSA_STEP_SAMPLED)])
def test_the_step_of_spsa_is_larger_when_sampled(shots, step):
    assert (SPSA_STEP_EXACT, SPSA_STEP_SAMPLED) == (0.01, 0.1)
    circuit, angles = ansatz("ry_cnot", 2, 1), torch.zeros(2, requires_grad=True)
    engine = Recording(shots, "spsa")
    engine.probabilities(circuit, angles)[0].backward()
    assert engine.asked[1][1].abs().unique().tolist() == pytest.approx([step])


def test_the_gradient_has_shots_of_its_own():
    engine = Recording("10x", gradient_shots=7)
    gradient(engine, some_angles())
    assert [shots for _, _, shots, _ in engine.asked] == [40, 7]
    engine = Recording(30)
    gradient(engine, some_angles())
    assert [shots for _, _, shots, _ in engine.asked] == [30, 30]
    engine = Recording()
    gradient(engine, some_angles())
    assert [shots for _, _, shots, _ in engine.asked] == [None, None]


def test_every_call_has_streams_of_its_own_and_its_gradient_those_of_its_call():
    engine, angles = Recording(10, seed=6), some_angles()
    first, second = (engine.probabilities(CIRCUIT, angles) for _ in range(2))
    first.sum().backward(retain_graph=True)  # after the second call
    second.sum().backward()
    first.sum().backward()
    assert [stream for _, _, _, stream in engine.asked] == [
        Stream(6, 0, Purpose.FORWARD), Stream(6, 1, Purpose.FORWARD), Stream(6, 0, Purpose.GRADIENT),
        Stream(6, 1, Purpose.GRADIENT), Stream(6, 0, Purpose.GRADIENT),
    ]  # fmt: skip


def test_a_call_that_is_refused_has_no_number():
    engine = Recording()
    with pytest.raises(EngineError):
        engine.probabilities(CIRCUIT, torch.zeros(5))
    assert engine.draws.call == 0


def test_check_is_asked_with_the_angles_dtype_and_device():
    class Small(Recording):
        def check(self, circuit, dtype=torch.float32, device="cpu"):
            raise EngineError(f"too large: {dtype} on {device}")

    with pytest.raises(EngineError, match=r"too large: torch.float64 on cpu"):
        Small().probabilities(CIRCUIT, some_angles())


@pytest.mark.parametrize("method", ["parameter-shift", "spsa"])
def test_a_second_derivative_is_refused(method):
    engine, angles = Recording(diff_method=method), some_angles()
    first = gradient(engine, angles, create_graph=True)
    with pytest.raises(EngineError, match=rf"'{method}' is differentiable once; .*StatevectorEngine\('backprop'\)"):
        first.sum().backward()


def test_the_first_derivative_is_right_under_create_graph():
    angles = some_angles(2)
    torch.testing.assert_close(gradient(Recording(), angles, create_graph=True), gradient(StatevectorEngine(), angles))


def test_gradcheck():
    assert gradcheck(lambda angles: Recording().probabilities(CIRCUIT, angles), some_angles(2))


def test_a_deep_copy_counts_on_its_own():
    engine = Recording(10)
    engine.probabilities(CIRCUIT, some_angles())
    twin = copy.deepcopy(engine)
    twin.probabilities(CIRCUIT, some_angles())
    assert (engine.draws.call, twin.draws.call) == (1, 2)


def test_the_description_says_what_decides_the_numbers():
    described = Recording("10x", "spsa", 50, seed=3).describe()
    assert json.loads(json.dumps(described)) == {
        "engine": "Recording", "shots": "10x", "gradient_shots": "50", "diff_method": "spsa", "seed": 3,
    }  # fmt: skip
    assert Recording().describe()["shots"] is None


@pytest.mark.parametrize("answered", [0, 2, 4])
def test_rows_that_miss_or_are_too_many_are_named(answered):
    class Wrong(BlackBoxEngine):
        def evaluate(self, circuit, angles, shots, stream):
            return [angles.new_zeros(1, 4)] * answered

    told = rf"the engine was asked for 3 rows of probabilities and answered with {answered}"
    with pytest.raises(EngineError, match=told):
        Wrong().probabilities(CIRCUIT, some_angles(3))


@pytest.mark.parametrize("method", ["adjoint", "backprop", "straight-through", "finite-diff", "parameter_shift"])
def test_an_unknown_method_is_refused(method):
    with pytest.raises(ConfigError, match=rf"unknown diff_method of Recording '{method}'.*parameter-shift, spsa"):
        Recording(diff_method=method)


@pytest.mark.parametrize("seed", [-1, 0.5, 2**64])
def test_a_seed_that_cannot_be_is_refused(seed):
    with pytest.raises(ConfigError, match="seed is"):
        Recording(seed=seed)


def test_autocast_changes_nothing():
    engine, angles = Recording(), some_angles(2, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = gradient(engine, angles)
    torch.testing.assert_close(given, gradient(StatevectorEngine(), angles))


def test_the_gradient_is_that_of_the_angles_of_the_forward_pass():
    circuit = CircuitBuilder(1).ry(0).build()
    angles = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
    value = SampledEngine(StatevectorEngine(), 10**9, "parameter-shift").probabilities(circuit, angles)[1]
    with torch.no_grad():
        angles += 1  # as an optimiser may, between forward and backward
    value.backward()
    assert angles.grad.item() == pytest.approx(math.sin(0.4) / 2, abs=1e-3)


@pytest.mark.parametrize("shape", [(2, 2), (4,), (1, 2, 2)], ids=str)
def test_a_block_of_another_shape_is_named(shape):
    class Wrong(BlackBoxEngine):
        def evaluate(self, circuit, angles, shots, stream):
            yield torch.ones(shape)

    with pytest.raises(EngineError, match=r"a block of shape .*; expected \(b, 4\)"):
        Wrong().probabilities(CircuitBuilder(2).ry(0).build(), torch.zeros(1))
