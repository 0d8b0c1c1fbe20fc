import copy
import math

import pytest
import torch

from qpeft.errors import ConfigError, EngineError
from qpeft.generators import SOURCES, QPAGenerator, QPASpec
from qpeft.qcircuits import CircuitBuilder, SampledEngine, StatevectorEngine

START = {"zero_last": False}  # the paper's: everything random


def generator(m=50, n_mlp=4, seed=0, **options):
    torch.manual_seed(seed)
    return QPAGenerator(QPASpec(m, n_mlp, **options))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("m", "n_mlp"), [(1, 1), (50, 50), (50, 7), (64, 4), (33, 1)])
def test_length_and_mean(source, m, n_mlp):
    vector = generator(m, n_mlp, source=source, **START)()
    assert vector.shape == (m,)
    assert abs(vector.double().mean()) < 1e-6
    assert m == 1 or vector.std() > 1e-4


def test_vector_is_the_chunks_end_to_end_cut_and_centred():
    # An independent second writing: numbers by numpy, one row at a time.
    gen = generator(50, 7, hidden=(5,), activation="relu", transform="scaled", reps=2, **START).double()
    p = StatevectorEngine().probabilities(gen.spec.circuit, gen.source.angles).detach().numpy()
    (w1, b1), (w2, b2) = [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in gen.mapping.layers]
    numbers = []
    for i in range(8):
        row = [1.0 if bit == "1" else -1.0 for bit in f"{i:03b}"] + [p[i] * 8 - 1]
        numbers.extend(w2 @ (w1 @ row + b1).clip(0) + b2)
    mean = math.fsum(numbers[:50]) / 50
    expected = torch.tensor([x - mean for x in numbers[:50]], dtype=torch.float64)
    torch.testing.assert_close(gen().detach(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_qubits", [3, 6])
@pytest.mark.parametrize("hidden", [(), (16,), (32, 64, 32)])
def test_rank_without_activation_is_the_number_of_qubits_plus_2(num_qubits, hidden):
    # The map is affine in N labels and one feature; the constant adds one.
    gen = generator(2**num_qubits * 40, 40, hidden=hidden, activation="none", **START).double()
    assert torch.linalg.matrix_rank(gen.chunks(), rtol=1e-10) == num_qubits + 2


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh"])
def test_rank_with_activation_exceeds_it(activation):
    gen = generator(2**6 * 40, 40, hidden=(16,), activation=activation, **START).double()
    assert torch.linalg.matrix_rank(gen.chunks(), rtol=1e-10) > 6 + 2


def test_rank_without_the_circuit_is_one_less():
    gen = generator(2**6 * 40, 40, activation="none", source="none", **START).double()
    assert torch.linalg.matrix_rank(gen.chunks(), rtol=1e-10) == 6 + 1


def test_zero_last_starts_as_zero():
    assert torch.equal(generator(zero_last=True)(), torch.zeros(50))
    assert generator(zero_last=False)().abs().max() > 0


def target_loss(gen):
    return (gen() - torch.linspace(-1, 1, 50).to(gen.mapping.last.weight.dtype)).square().sum()


def test_gradient_reaches_everything_with_the_papers_start():
    gen = generator(**START)
    target_loss(gen).backward()
    gradients = {name: p.grad for name, p in gen.named_parameters()}
    assert all(g is not None and g.abs().max() > 0 for g in gradients.values()), gradients.keys()


def test_gradient_reaches_the_angles_after_one_step_with_a_zero_last_layer():
    gen = generator(zero_last=True)
    optimizer = torch.optim.SGD(gen.parameters(), lr=1e-3)
    target_loss(gen).backward()
    assert gen.source.angles.grad.abs().max() == 0
    assert gen.mapping.last.weight.grad.abs().max() > 0
    optimizer.step()
    optimizer.zero_grad()
    target_loss(gen).backward()
    assert all(p.grad.abs().max() > 0 for p in gen.parameters())


@pytest.mark.parametrize("ansatz", ["ry_cnot", "ryrz_cnot", "simplified_two_design"])
@pytest.mark.parametrize("transform", ["identity", "scaled", "tanh_power"])
def test_gradient_of_the_angles_is_the_parameter_shift_rule(ansatz, transform):
    gen = generator(ansatz=ansatz, reps=2, transform=transform, **START).double()
    target_loss(gen).backward()

    engine, circuit, angles = StatevectorEngine(), gen.spec.circuit, gen.source.angles.detach()
    p = engine.probabilities(circuit, angles).requires_grad_()

    class Given:
        def probabilities(self, circuit, angles):
            return p

    gen.source.engine = Given()
    (wanted,) = torch.autograd.grad(target_loss(gen), p)
    for index in range(len(angles)):
        shift = torch.zeros_like(angles)
        shift[index] = math.pi / 2
        slope = (engine.probabilities(circuit, angles + shift) - engine.probabilities(circuit, angles - shift)) / 2
        assert gen.source.angles.grad[index].item() == pytest.approx((wanted @ slope).item(), abs=1e-9)


def test_gradient_is_the_finite_difference():
    gen = generator(30, 5, reps=1, hidden=(3,), **START).double()
    parameters = list(gen.parameters())

    def vector(*values):
        return torch.func.functional_call(
            gen, dict(zip([n for n, _ in gen.named_parameters()], values, strict=True)), ()
        )

    assert torch.autograd.gradcheck(vector, [p.detach().clone().requires_grad_() for p in parameters])


@pytest.mark.parametrize(("source", "trains"), [("frozen", False), ("free", True), ("mlp", True)])
def test_controls_train_or_do_not(source, trains):
    gen = generator(source=source, **START)
    before = gen.source().detach().clone()
    optimizer = torch.optim.SGD(gen.parameters(), lr=1e-2)
    target_loss(gen).backward()
    optimizer.step()
    assert torch.equal(gen.source(), before) is not trains


def test_frozen_angles_are_saved_and_labels_are_not():
    state = generator(source="frozen").state_dict()
    assert list(state) == [
        "source.angles", "mapping.layers.0.weight", "mapping.layers.0.bias", "mapping.layers.1.weight",
        "mapping.layers.1.bias",
    ]  # fmt: skip
    other = generator(source="frozen", seed=1)
    other.load_state_dict(state)
    assert torch.equal(other.source(), generator(source="frozen").source())


def test_a_circuit_of_the_users_own_and_an_engine_of_the_users_own():
    circuit = CircuitBuilder(2).ry(0).cx(0, 1).build()
    asked = []

    class Recording(StatevectorEngine):
        def probabilities(self, circuit, angles):
            asked.append(circuit)
            return super().probabilities(circuit, angles)

    torch.manual_seed(0)
    gen = QPAGenerator(QPASpec(40, 10, ansatz=circuit, transform="identity", **START), Recording())
    half = gen.source.angles.item() / 2
    expected = torch.tensor([math.cos(half) ** 2, 0, 0, math.sin(half) ** 2])
    torch.testing.assert_close(gen.source(), expected)
    assert asked == [circuit]


def test_a_function_that_gives_another_number_of_qubits_is_refused():
    with pytest.raises(ConfigError, match="asked for 4 qubits and returned a circuit on 1"):
        generator(ansatz=lambda num_qubits, reps: CircuitBuilder(1).ry(0).build())


def test_the_same_seed_gives_the_same_generator():
    assert torch.equal(generator(seed=5, **START)(), generator(seed=5, **START)())
    assert not torch.equal(generator(seed=5, **START)(), generator(seed=6, **START)())


def test_what_cannot_fit_is_refused_before_it_is_built():
    with pytest.raises(EngineError, match=r"40 qubits .* need about 40,960\.0 GiB; .* larger chunk size"):
        QPAGenerator(QPASpec(target_size=2**40, chunk_size=1))
    with pytest.raises(EngineError, match=r"1,099,511,627,776 chunks of 1 weights need about .* GiB"):
        QPAGenerator(QPASpec(target_size=2**40, chunk_size=1, source="none"))


class TestSampling:
    def sampled(self, seed=0, **options):
        torch.manual_seed(3)
        engine = SampledEngine(StatevectorEngine(), "10x", seed=seed)
        return QPAGenerator(QPASpec(50, 7, **START, **options), engine)

    def test_the_same_parameters_give_the_same_sample(self):
        first, second = self.sampled(), self.sampled()
        vector = first()
        first.engine.draws.call += 5  # whatever the engine did in between
        assert torch.equal(first(), vector)
        assert torch.equal(second(), vector)
        assert torch.equal(copy.deepcopy(first)(), vector)
        assert not torch.equal(self.sampled(seed=1)(), vector)

    @pytest.mark.parametrize("changed", ["source.angles", "mapping.layers.0.bias"])
    @pytest.mark.parametrize("source", ["circuit", "frozen"])
    def test_any_step_draws_anew(self, source, changed):
        gen = self.sampled(source=source)
        before = gen.source().detach().clone()
        gen()
        call = gen.engine.draws.call
        gen.state_dict()[changed][0] += 1e-6
        gen()
        assert gen.engine.draws.call != call
        gen.choose_sample()
        assert not torch.equal(gen.source(), before)

    def test_the_vector_is_that_of_the_frequencies(self):
        gen = self.sampled(transform="identity")
        gen.choose_sample()
        shots = 10 * 2**gen.spec.num_qubits
        counts = gen.source() * shots
        torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-3)
        assert counts.round().sum() <= shots

    def test_straight_through_gives_the_angles_a_gradient(self):
        gen = self.sampled()
        target_loss(gen).backward()
        assert gen.source.angles.grad.abs().max() > 0
