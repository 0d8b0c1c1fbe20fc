import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from qiskit.quantum_info import Statevector
from qiskit_reference import REAL, bit_reversed, circuits, final_state, random_circuit, to_qiskit, unitary
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.graph import saved_tensors_hooks

from qpeft.errors import ConfigError, EngineError
from qpeft.qcircuits import Angle, Circuit, CircuitBuilder, Engine, StatevectorEngine, ansatz, parts
from qpeft.qcircuits.fusion import compile_circuit

ENGINES = {method: StatevectorEngine(method) for method in ("adjoint", "backprop")}
both = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
batches = pytest.mark.parametrize("batch", [(), (3,), (2, 3), (1, 1, 2), (0,)], ids=str)

REAL_CIRCUIT = random_circuit(3, 16, seed=7, names=REAL)
COMPLEX_CIRCUIT = random_circuit(3, 16, seed=6)
CIRCUITS = {
    "real": REAL_CIRCUIT,
    "complex": COMPLEX_CIRCUIT,
    "two_design": ansatz("simplified_two_design", 4, 1),
    "two blocks": ansatz("ryrz_cnot", 5, 1),
    "pairs": CircuitBuilder(3).h(1).rbs(0, 2).rzz(2, 1).ecr(1, 0).rbs(2, 0).rx(0).build(),
    "phases": CircuitBuilder(2).h(0).h(1).p(0).p(1).cx(0, 1).rz(1).ry(0).build(),
    "shared": CircuitBuilder(2)
    .ry(0)
    .rx(1, angle=Angle(0))
    .cx(0, 1)
    .rz(0, angle=Angle(0))
    .ry(0, angle=Angle(0))
    .build(),
    "affine": CircuitBuilder(2)
    .ry(0, angle=Angle(0, -2.0, 0.3))
    .rbs(1, 0, angle=Angle(0, 0.5))
    .rx(1, angle=0.7)
    .build(),
    "cancelling": CircuitBuilder(2).ry(0).ry(1).cx(0, 1).cx(0, 1).rx(0).cz(0, 1).cz(0, 1).ry(1).build(),
    "turned permutation": CircuitBuilder(2).ry(0).ry(1).cx(0, 1).t(1).y(0).ry(0).rx(1).build(),
    "turned signs": CircuitBuilder(2).ry(0).ry(1).cz(0, 1).t(1).s(0).ry(0).rx(1).build(),
    "one qubit": CircuitBuilder(1).ry(0).rz(0).rx(0).build(),
}
every_circuit = pytest.mark.parametrize("circuit", CIRCUITS.values(), ids=CIRCUITS)


def some_angles(circuit, *batch, seed=0, dtype=torch.float64):
    values = np.random.default_rng(seed).uniform(-np.pi, np.pi, (*batch, circuit.num_parameters))
    return torch.tensor(values, dtype=dtype)


def some_states(*shape, dtype=torch.complex128, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=dtype, generator=generator), dim=-1)


def close(actual, expected, atol=1e-12):
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=0, atol=atol)


class TestValues:
    @given(circuits(max_qubits=5, max_operations=20))
    def test_states_are_qiskits(self, circuit):
        angles = some_angles(circuit)
        expected = final_state(circuit, angles)
        for engine in ENGINES.values():
            close(engine.state(circuit, angles), expected)
            close(engine.probabilities(circuit, angles), np.abs(expected) ** 2)

    @both
    @pytest.mark.parametrize("num_qubits", range(1, 11))
    def test_many_qubits(self, engine, num_qubits):
        circuit = random_circuit(num_qubits, 40, seed=num_qubits)
        angles = some_angles(circuit)
        close(engine.state(circuit, angles), Statevector(to_qiskit(circuit, angles)).data)

    @both
    @pytest.mark.parametrize("circuit", [REAL_CIRCUIT, COMPLEX_CIRCUIT], ids=["real", "complex"])
    def test_qubit_0_is_the_most_significant_bit(self, engine, circuit):
        angles = some_angles(circuit)
        expected = final_state(circuit, angles)
        assert np.abs(np.abs(expected) - np.abs(bit_reversed(expected))).max() > 0.05  # or the test would be blind
        close(engine.state(circuit, angles), expected)
        flipped = engine.probabilities(CircuitBuilder(3).x(0).build(), torch.zeros(0))
        assert flipped.tolist() == [0, 0, 0, 0, 1, 0, 0, 0]

    @both
    @pytest.mark.parametrize(
        ("names", "given", "result", "tolerance"),
        [
            (REAL, torch.float32, torch.float32, 1e-5),
            (REAL, torch.float64, torch.float64, 1e-12),
            (None, torch.float32, torch.complex64, 1e-5),
            (None, torch.float64, torch.complex128, 1e-12),
        ],
    )
    def test_dtypes(self, engine, names, given, result, tolerance):
        circuit = random_circuit(4, 30, seed=7, names=names) if names else random_circuit(4, 30, seed=7)
        angles = some_angles(circuit, 2, dtype=given).requires_grad_()
        state = engine.state(circuit, angles)
        assert state.dtype == result
        assert engine.columns(circuit, angles, 3).dtype == result
        probabilities = engine.probabilities(circuit, angles)
        assert probabilities.dtype == given
        close(state, [final_state(circuit, row) for row in angles.detach()], tolerance)
        (gradient,) = torch.autograd.grad(probabilities[..., 1].sum(), angles)
        assert gradient.dtype == given

    @both
    @batches
    @pytest.mark.parametrize("circuit", [REAL_CIRCUIT, COMPLEX_CIRCUIT], ids=["real", "complex"])
    def test_leading_axes(self, engine, circuit, batch):
        angles = some_angles(circuit, *batch).requires_grad_()
        state, columns = engine.state(circuit, angles), engine.columns(circuit, angles, 3)
        probabilities = engine.probabilities(circuit, angles)
        assert state.shape == probabilities.shape == (*batch, 8)
        assert columns.shape == (*batch, 8, 3)
        for index in np.ndindex(*batch):
            matrix = unitary(circuit, angles.detach()[index])
            close(state[index], matrix[:, 0])
            close(columns[index], matrix[:, :3])
            close(probabilities[index], np.abs(matrix[:, 0]) ** 2)
        (probabilities.sum() + columns.abs().sum()).backward()
        assert angles.grad.shape == angles.shape

    @both
    def test_no_parameters(self, engine):
        circuit = CircuitBuilder(3).h(0).cx(0, 1).rx(2, angle=0.4).sx(1).build()
        for batch in [(), (4,)]:
            state = engine.state(circuit, torch.zeros(*batch, 0, dtype=torch.float64))
            close(state, np.broadcast_to(final_state(circuit, []), (*batch, 8)))

    @both
    def test_no_operations(self, engine):
        state = engine.state(Circuit(2, (), 3), torch.ones(5, 3))
        assert torch.equal(state, torch.eye(4)[0].expand(5, 4))

    @both
    def test_constant_angles_beside_parameters(self, engine):
        circuit = CircuitBuilder(2).ry(0, angle=0.3).ry(1).rbs(0, 1, angle=-0.8).cx(1, 0).build()
        angles = some_angles(circuit, 3)
        close(engine.state(circuit, angles), [final_state(circuit, row) for row in angles])

    @both
    def test_angles_need_not_be_contiguous(self, engine):
        angles = some_angles(COMPLEX_CIRCUIT, 6).T.contiguous().T[::2]
        assert not angles.is_contiguous()
        close(engine.state(COMPLEX_CIRCUIT, angles), [final_state(COMPLEX_CIRCUIT, row) for row in angles])


class TestInitialState:
    @both
    @pytest.mark.parametrize("circuit", [REAL_CIRCUIT, COMPLEX_CIRCUIT], ids=["real", "complex"])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
    @pytest.mark.parametrize(
        ("angles_batch", "states_batch"),
        [((), ()), ((3,), (3,)), ((3,), ()), ((), (3,)), ((2, 1), (3,)), ((0,), ())],
        ids=str,
    )
    def test_is_multiplied_by_the_matrix(self, engine, circuit, dtype, angles_batch, states_batch):
        angles, start = some_angles(circuit, *angles_batch), some_states(*states_batch, 8, dtype=dtype)
        state = engine.state(circuit, angles, start)
        leading = np.broadcast_shapes(angles_batch, states_batch)
        assert state.shape == (*leading, 8)
        assert state.is_complex() == (dtype.is_complex or not circuit.is_real)
        each_angles = angles.expand(*leading, -1)
        each_start = start.expand(*leading, -1)
        for index in np.ndindex(*leading):
            close(state[index], unitary(circuit, each_angles[index]) @ each_start[index].numpy())

    @both
    @pytest.mark.parametrize("circuit", [REAL_CIRCUIT, COMPLEX_CIRCUIT], ids=["real", "complex"])
    @pytest.mark.parametrize(
        ("dtype", "batch"), [(torch.float64, (2,)), (torch.complex128, ()), (torch.complex128, (2,))]
    )
    def test_gradient(self, engine, circuit, dtype, batch):
        angles = some_angles(circuit, 2).requires_grad_()
        start = some_states(*batch, 8, dtype=dtype).requires_grad_()
        assert gradcheck(lambda a, s: engine.state(circuit, a, s), (angles, start))

    @both
    def test_need_not_be_contiguous_or_normalised(self, engine):
        angles = some_angles(COMPLEX_CIRCUIT, 3)
        start = 5 * some_states(8, 3).T
        assert not start.is_contiguous()
        expected = [unitary(COMPLEX_CIRCUIT, a) @ s.numpy() for a, s in zip(angles, start, strict=True)]
        close(engine.state(COMPLEX_CIRCUIT, angles, start), expected)

    @both
    def test_is_left_as_it_was(self, engine):
        start = some_states(8)
        before = start.clone()
        engine.state(COMPLEX_CIRCUIT, some_angles(COMPLEX_CIRCUIT), start)
        assert torch.equal(start, before)


class TestColumns:
    @both
    @every_circuit
    def test_are_qiskits(self, engine, circuit):
        angles = some_angles(circuit, 2)
        dim = 2**circuit.num_qubits
        for k in {1, min(3, dim), dim}:
            frame = engine.columns(circuit, angles, k)
            close(frame, [unitary(circuit, row)[:, :k] for row in angles])
            close(frame.mH @ frame, np.broadcast_to(np.eye(k), (2, k, k)))

    @both
    @every_circuit
    def test_gradient(self, engine, circuit):
        angles = some_angles(circuit, 2).requires_grad_()
        assert gradcheck(lambda a: engine.columns(circuit, a, 2), (angles,))

    @both
    @pytest.mark.parametrize("k", [2, 8, 9, 65, 512])
    @pytest.mark.parametrize("names", [REAL, None], ids=["real", "complex"])
    def test_several_blocks(self, engine, names, k):
        circuit = random_circuit(9, 40, seed=3, names=names) if names else random_circuit(9, 40, seed=3)
        circuit = ansatz("ry_cnot", 9, 1).compose(circuit)  # a layer of gates on all qubits first
        angles, last = some_angles(circuit, 2).requires_grad_(), torch.eye(512, dtype=torch.float64)[k - 1]
        column = engine.columns(circuit, angles, k)[..., -1]
        expected = engine.state(circuit, angles, last)
        close(column, expected.detach())
        weights = some_states(512)
        torch.testing.assert_close(
            *(torch.autograd.grad((each * weights).sum().abs(), angles)[0] for each in (column, expected)),
            rtol=0, atol=1e-12,
        )  # fmt: skip

    @both
    @pytest.mark.parametrize("k", [0, -1, 9])
    def test_number_of_columns(self, engine, k):
        with pytest.raises(EngineError, match=f"3 qubits has 1 to 8 columns; given k={k}"):
            engine.columns(REAL_CIRCUIT, some_angles(REAL_CIRCUIT), k)


class TestMultiply:
    @both
    @every_circuit
    def test_is_qiskits_product(self, engine, circuit):
        angles, dim = some_angles(circuit, 2), 2**circuit.num_qubits
        for dtype in (torch.float64, torch.complex128):
            for k in (1, 3):
                block = some_states(2, k, dim, dtype=dtype).mT
                expected = [unitary(circuit, a) @ b.numpy() for a, b in zip(angles, block, strict=True)]
                close(engine.multiply(circuit, angles, block), expected)

    @both
    @pytest.mark.parametrize(
        ("angles_batch", "block_batch"), [((), ()), ((3,), ()), ((), (3,)), ((2, 1), (3,)), ((0,), ())], ids=str
    )
    def test_leading_axes(self, engine, angles_batch, block_batch):
        angles, block = some_angles(REAL_CIRCUIT, *angles_batch), some_states(*block_batch, 8, 2, dtype=torch.float64)
        product = engine.multiply(REAL_CIRCUIT, angles, block)
        leading = np.broadcast_shapes(angles_batch, block_batch)
        assert product.shape == (*leading, 8, 2)
        each_angles, each_block = angles.expand(*leading, -1), block.expand(*leading, -1, -1)
        for index in np.ndindex(*leading):
            close(product[index], unitary(REAL_CIRCUIT, each_angles[index]) @ each_block[index].numpy())

    @both
    @every_circuit
    def test_gradient(self, engine, circuit):
        angles = some_angles(circuit, 2).requires_grad_()
        block = some_states(2, 2**circuit.num_qubits, 2, dtype=torch.float64).requires_grad_()
        assert gradcheck(lambda a, b: engine.multiply(circuit, a, b), (angles, block))

    @both
    @pytest.mark.parametrize("shape", [(), (8,), (4, 2), (2, 8, 0)])
    def test_shape_of_the_block(self, engine, shape):
        message = rf"shape \({', '.join(map(str, shape))},?\); 3 qubits need \(\.\.\., 8, k\)"
        with pytest.raises(EngineError, match=message):
            engine.multiply(REAL_CIRCUIT, some_angles(REAL_CIRCUIT), torch.ones(shape))

    @both
    def test_leading_axes_that_do_not_broadcast(self, engine):
        with pytest.raises(EngineError, match=r"block of shape \(4, 8, 1\) and angles of shape \(2, 3\) do not"):
            engine.multiply(ansatz("ry_cnot", 3, 1), torch.zeros(2, 3), torch.ones(4, 8, 1))


class TestParts:
    """Large batches run part by part."""

    @pytest.mark.parametrize("circuits_a_part", [1, 2, 5])
    @pytest.mark.parametrize("circuit", [REAL_CIRCUIT, COMPLEX_CIRCUIT], ids=["real", "complex"])
    def test_change_nothing(self, circuit, circuits_a_part, monkeypatch):
        angles = some_angles(circuit, 5).requires_grad_()
        block = some_states(5, 8, 3, dtype=torch.float64).requires_grad_()
        weights = some_states(5, 8, 3)

        def results():
            product, columns = ENGINES["adjoint"].multiply(circuit, angles, block), columns_of(angles)
            value = (product * weights).sum().real + (columns * weights).sum().real
            return product, columns, *torch.autograd.grad(value, (angles, block))

        def columns_of(values):
            return ENGINES["adjoint"].columns(circuit, values, 3)

        whole = results()
        monkeypatch.setattr(parts, "PART_BYTES", circuits_a_part * whole[0][0].numel() * whole[0].itemsize)
        for in_parts, expected in zip(results(), whole, strict=True):
            torch.testing.assert_close(in_parts, expected, rtol=0, atol=1e-12)


class TestGradients:
    @given(circuits(max_qubits=4, max_operations=15))
    def test_methods_agree_with_each_other_and_with_qiskits_differences(self, circuit):
        angles = some_angles(circuit).requires_grad_()
        weights = some_states(2**circuit.num_qubits, dtype=torch.float64)
        gradients = [
            torch.autograd.grad(engine.probabilities(circuit, angles) @ weights, angles)[0]
            for engine in ENGINES.values()
        ]
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)

        def value(theta):
            return np.abs(final_state(circuit, theta)) ** 2 @ weights.numpy()

        point, step = angles.detach().numpy(), 1e-5 * np.eye(circuit.num_parameters)
        differences = [(value(point + e) - value(point - e)) / 2e-5 for e in step]
        np.testing.assert_allclose(gradients[0], differences, atol=1e-7)  # fourth powers of scales up to 4

    @both
    @every_circuit
    def test_gradcheck(self, engine, circuit):
        angles = some_angles(circuit, 2).requires_grad_()
        assert gradcheck(lambda a: engine.state(circuit, a), (angles,))
        assert gradcheck(lambda a: engine.probabilities(circuit, a), (angles,))

    @every_circuit
    def test_gradgradcheck(self, circuit):
        angles = some_angles(circuit).requires_grad_()
        assert gradgradcheck(lambda a: ENGINES["backprop"].probabilities(circuit, a), (angles,))

    @pytest.mark.parametrize("output", ["state", "probabilities"])  # the first's cotangent is a constant
    def test_adjoint_refuses_a_second_derivative(self, output):
        angles = some_angles(REAL_CIRCUIT).requires_grad_()
        value = getattr(ENGINES["adjoint"], output)(REAL_CIRCUIT, angles)[1]
        (gradient,) = torch.autograd.grad(value, angles, create_graph=True)
        with pytest.raises(EngineError, match="for second derivatives use StatevectorEngine"):
            torch.autograd.grad(gradient.sum(), angles)

    @both
    @every_circuit
    def test_backward_again(self, engine, circuit):
        angles = some_angles(circuit, 3).requires_grad_()
        weights = some_states(2**circuit.num_qubits, dtype=torch.float64)
        value = (engine.probabilities(circuit, angles) @ weights).sum()
        first, second = (torch.autograd.grad(value, angles, retain_graph=True)[0] for _ in range(2))
        assert first.abs().max() > 1e-3
        assert torch.equal(first, second)

    @both
    def test_two_calls_do_not_disturb_each_other(self, engine):
        one, two = (some_angles(COMPLEX_CIRCUIT, seed=seed).requires_grad_() for seed in (1, 2))
        first = engine.probabilities(COMPLEX_CIRCUIT, one)
        alone = first.detach().clone()
        (expected,) = torch.autograd.grad(first[3], one, retain_graph=True)
        engine.probabilities(COMPLEX_CIRCUIT, two)[3].backward()
        assert torch.equal(first, alone)
        assert torch.equal(torch.autograd.grad(first[3], one)[0], expected)

    @both
    def test_no_grad(self, engine):
        angles = some_angles(COMPLEX_CIRCUIT).requires_grad_()
        with torch.no_grad():
            state = engine.state(COMPLEX_CIRCUIT, angles)
        assert not state.requires_grad
        assert engine.state(COMPLEX_CIRCUIT, angles).requires_grad
        assert not engine.state(COMPLEX_CIRCUIT, angles.detach()).requires_grad

    @both
    def test_angles_are_left_as_they_were(self, engine):
        angles = some_angles(COMPLEX_CIRCUIT, 2).requires_grad_()
        before, version = angles.detach().clone(), angles._version
        engine.probabilities(COMPLEX_CIRCUIT, angles)[..., 0].sum().backward()
        assert torch.equal(angles, before)
        assert angles._version == version

    @both
    @pytest.mark.parametrize(
        "circuit",
        [
            Circuit(
                2, CircuitBuilder(2).ry(0, angle=Angle(1)).cx(0, 1).rbs(0, 1, angle=Angle(1)).build().operations, 3
            ),
            Circuit(2, CircuitBuilder(2).h(0).cx(0, 1).build().operations, 3),
            Circuit(2, CircuitBuilder(2).cx(0, 1).build().operations, 3),
            Circuit(2, (), 3),
        ],
        ids=["some used", "only constants", "only permutations", "empty"],
    )
    def test_unused_parameters_get_zeros(self, engine, circuit):
        angles = torch.tensor([[0.3, 0.4, 0.5], [1.3, 1.4, 1.5]]).requires_grad_()
        engine.probabilities(circuit, angles)[..., 0].sum().backward()
        used = circuit.operations[0].gate == "ry" if circuit.operations else False
        assert (angles.grad != 0).any(0).tolist() == [False, used, False]

    def test_adjoint_saves_as_many_states_at_any_depth(self):
        def saved(engine, reps):
            circuit = ansatz("ryrz_cnot", 6, reps)
            sizes = []

            def pack(tensor):
                sizes.append(tensor.numel() if tensor.shape[-1] == 2**6 else 0)
                return tensor

            with saved_tensors_hooks(pack, lambda tensor: tensor):
                engine.state(circuit, some_angles(circuit).requires_grad_())
            return sum(sizes)

        assert saved(ENGINES["adjoint"], 20) == saved(ENGINES["adjoint"], 2) == 2**6
        assert saved(ENGINES["backprop"], 20) > 5 * saved(ENGINES["backprop"], 2) > 0


class TestSurroundings:
    """What a training loop puts around the engine changes nothing."""

    @both
    def test_autocast(self, engine):
        circuit = CircuitBuilder(3).ry(0).ry(1).ry(2).rbs(0, 1).ry(0).ry(0).cx(0, 2).rbs(2, 1).build()
        angles = some_angles(circuit, 2, dtype=torch.float32).requires_grad_()
        expected = engine.probabilities(circuit, angles)
        (gradient,) = torch.autograd.grad(expected[..., 1].sum(), angles)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            probabilities = engine.probabilities(circuit, angles)
        (under_autocast,) = torch.autograd.grad(probabilities[..., 1].sum(), angles)
        assert probabilities.dtype == torch.float32
        assert torch.equal(probabilities, expected)
        assert torch.equal(under_autocast, gradient)

    @both
    def test_training_after_inference(self, engine):
        circuit = random_circuit(3, 20, seed=11)
        compile_circuit.cache_clear()
        with torch.inference_mode():
            engine.probabilities(circuit, some_angles(circuit))
        angles = some_angles(circuit).requires_grad_()
        assert gradcheck(lambda a: engine.probabilities(circuit, a), (angles,))

    @both
    @pytest.mark.parametrize("circuit", [REAL_CIRCUIT, COMPLEX_CIRCUIT], ids=["real", "complex"])
    def test_cuda(self, engine, circuit):
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device, and torch finds none")
        here = some_angles(circuit, 3).requires_grad_()
        there = here.detach().cuda().requires_grad_()
        probabilities = engine.probabilities(circuit, there)
        assert probabilities.device.type == "cuda"
        torch.testing.assert_close(probabilities.cpu(), engine.probabilities(circuit, here), rtol=0, atol=1e-12)
        for angles in (here, there):
            engine.probabilities(circuit, angles)[..., 0].sum().backward()
        torch.testing.assert_close(there.grad.cpu(), here.grad, rtol=0, atol=1e-12)

    @both
    @pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
    def test_copies(self, engine, duplicate):
        assert duplicate(engine) == engine
        angles = some_angles(COMPLEX_CIRCUIT)
        expected = engine.state(COMPLEX_CIRCUIT, angles)
        assert torch.equal(duplicate(engine).state(COMPLEX_CIRCUIT, angles), expected)

    @both
    def test_is_an_engine(self, engine):
        assert isinstance(engine, Engine)


class TestErrors:
    @both
    @pytest.mark.parametrize("shape", [(), (2,), (3, 2), (0,)])
    def test_number_of_angles(self, engine, shape):
        circuit = ansatz("ry_cnot", 3, 1)
        message = rf"has 3 angles; given a tensor of shape \({', '.join(map(str, shape))},?\), expected \(\.\.\., 3\)"
        for call in (engine.state, engine.probabilities, lambda c, a: engine.columns(c, a, 1)):
            with pytest.raises(EngineError, match=message):
                call(circuit, torch.zeros(shape))

    @both
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.complex64])
    def test_dtype_of_angles(self, engine, dtype):
        message = rf"angles are {dtype}; expected torch\.float32 or torch\.float64"
        for call in (engine.state, engine.probabilities, lambda c, a: engine.columns(c, a, 1)):
            with pytest.raises(EngineError, match=message):
                call(ansatz("ry_cnot", 3, 1), torch.zeros(3, dtype=dtype))

    @both
    @pytest.mark.parametrize("shape", [(), (4,), (2, 7)])
    def test_shape_of_the_initial_state(self, engine, shape):
        message = rf"has shape \({', '.join(map(str, shape))},?\); 3 qubits need \(\.\.\., 8\)"
        with pytest.raises(EngineError, match=message):
            engine.state(ansatz("ry_cnot", 3, 1), torch.zeros(3), torch.ones(shape))

    @both
    def test_leading_axes_that_do_not_broadcast(self, engine):
        with pytest.raises(EngineError, match=r"shape \(4, 8\) and angles of shape \(2, 3\) do not broadcast"):
            engine.state(ansatz("ry_cnot", 3, 1), torch.zeros(2, 3), torch.ones(4, 8))

    def test_unknown_method(self):
        with pytest.raises(ConfigError, match="Did you mean 'adjoint'"):
            StatevectorEngine("adjiont")
