import pytest
import torch

from qpeft.errors import EngineError
from qpeft.qcircuits import Engine, SampledEngine, StatevectorEngine, Surrogate, ansatz
from qpeft.qcircuits.engine import check_angles

CIRCUIT = ansatz("ry_cnot", 2, 1)


class Uniform(Engine):
    """The least an engine is."""

    def probabilities(self, circuit, angles):
        return angles.new_full((*angles.shape[:-1], 2**circuit.num_qubits), 0.5**circuit.num_qubits)


class Unrelated:
    pass


def test_an_engine_is_known_by_what_it_answers():
    assert isinstance(Uniform(), Engine)
    assert not isinstance(Unrelated(), Engine)


def test_the_least_engine_inherits_the_rest():
    engine = Uniform()
    assert engine.describe() == {"engine": "Uniform"}
    assert engine.check(CIRCUIT) is None


@pytest.mark.parametrize(
    "engine",
    [Uniform(), SampledEngine(StatevectorEngine(), 10), Surrogate(Uniform(), StatevectorEngine())],
    ids=lambda engine: type(engine).__name__,
)
def test_an_engine_without_state_or_columns_says_so(engine):
    angles = torch.zeros(2)
    with pytest.raises(EngineError, match=rf"{type(engine).__name__} has no state; use StatevectorEngine \('exact'\)"):
        engine.state(CIRCUIT, angles)
    with pytest.raises(EngineError, match=rf"{type(engine).__name__} has no columns.*use StatevectorEngine"):
        engine.columns(CIRCUIT, angles, 1)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (0,)], ids=str)
def test_angles_of_a_wrong_shape_are_refused(shape):
    with pytest.raises(
        EngineError, match=r"the circuit has 2 angles; given a tensor of shape .*expected \(\.\.\., 2\)"
    ):
        check_angles(CIRCUIT, torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.bfloat16, torch.complex64, torch.bool], ids=str)
def test_angles_of_a_wrong_dtype_are_refused(dtype):
    with pytest.raises(EngineError, match=rf"angles are {dtype}; expected torch.float32 or torch.float64"):
        check_angles(CIRCUIT, torch.zeros(2, dtype=dtype))


@pytest.mark.parametrize("shape", [(2,), (0, 2), (3, 1, 2)], ids=str)
def test_other_angles_pass(shape):
    for dtype in (torch.float32, torch.float64):
        check_angles(CIRCUIT, torch.zeros(shape, dtype=dtype))
