import math

import pytest
import torch

from qpeft.generators import QPAGenerator, QPASpec
from qpeft.generators.sources import CircuitSource, FreeSource, LabelMLPSource, basis_labels, build_source
from qpeft.qcircuits import CircuitBuilder, StatevectorEngine

ENGINE = StatevectorEngine()


def seeded(source, **options):
    torch.manual_seed(3)
    return build_source(QPASpec(50, 4, source=source, **options), ENGINE)


def test_labels_are_bits_most_significant_first():
    assert basis_labels(4, 2).tolist() == [[-1, -1], [-1, 1], [1, -1], [1, 1]]
    rows = basis_labels(600, 10)
    written = [[1.0 if bit == "1" else -1.0 for bit in f"{i:010b}"] for i in range(600)]
    assert rows.tolist() == written


def test_labels_belong_to_the_basis_states_of_the_engine():
    # X on qubit 0 of 3 gives basis state 100; its row must read +1, -1, -1.
    circuit = CircuitBuilder(3).x(0).build()
    generator = QPAGenerator(QPASpec(8, 1, ansatz=circuit, transform="identity"))
    features = generator.source()
    assert generator.labels[features.argmax()].tolist() == [1, -1, -1]


def test_circuit_gives_the_transformed_first_probabilities():
    spec = QPASpec(50, 4, transform="scaled", reps=2)  # 13 chunks of 16 basis states
    source = CircuitSource(spec, ENGINE)
    expected = ENGINE.probabilities(spec.circuit, source.angles)[:13] * 16 - 1
    assert torch.equal(source(), expected)


def test_angles_start_uniform_over_the_circle():
    torch.manual_seed(0)
    angles = CircuitSource(QPASpec(2**10, 1, reps=400), ENGINE).angles.detach().double()
    assert angles.min() >= -math.pi
    assert angles.max() <= math.pi
    assert abs(angles.mean()) < 4 * math.pi / math.sqrt(3 * len(angles))
    assert angles.var().item() == pytest.approx(math.pi**2 / 3, rel=0.06)


def test_frozen_is_the_circuit_that_does_not_train():
    circuit, frozen = seeded("circuit"), seeded("frozen")
    assert torch.equal(circuit(), frozen())
    assert list(frozen.parameters()) == []
    assert torch.equal(frozen.state_dict()["angles"], circuit.angles)


def test_free_starts_where_the_circuit_does():
    circuit, free = seeded("circuit"), seeded("free")
    assert isinstance(free, FreeSource)
    assert torch.equal(free(), circuit())
    assert [name for name, _ in free.named_parameters()] == ["values"]
    assert free.values.untyped_storage().nbytes() == 4 * 13  # and holds no more than its chunks


def test_mlp_is_a_tanh_network_on_the_labels():
    source = seeded("mlp", reps=8)
    assert isinstance(source, LabelMLPSource)
    first, last = source.network[0], source.network[2]
    expected = torch.tanh(basis_labels(13, 4) @ first.weight.T + first.bias) @ last.weight.T + last.bias
    torch.testing.assert_close(source(), expected[:, 0])


def test_none_has_no_source():
    assert seeded("none") is None


@pytest.mark.parametrize("source", ["circuit", "frozen", "free", "mlp"])
def test_every_source_gives_a_number_a_chunk(source):
    assert seeded(source)().shape == (13,)
    assert seeded(source)().dtype == torch.float32


def test_sources_differ_in_nothing_else():
    # The label-only control sees the same rows less the feature.
    widths = {s: QPAGenerator(QPASpec(50, 4, source=s)).mapping.layers[0].in_features for s in ("circuit", "none")}
    assert widths == {"circuit": 5, "none": 4}
