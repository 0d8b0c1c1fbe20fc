import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpeft.errors import ConfigError
from qpeft.generators import SOURCES, QPAGenerator, QPASpec
from qpeft.qcircuits import CircuitBuilder, ansatz

PAPER = {"hidden": (32, 64, 128, 128, 64, 32, 32), "activation": "none", "transform": "identity", "zero_last": False}
GPT2 = 4 * (50257 + 768)  # LoRA of rank 4 on the output head
GEMMA = 4 * (256000 + 2048)
GPT2_TOKENS = 512 * 768  # a vector for each of 512 positions

# Published parameter counts (arXiv 2410.09846, Tables 8 to 13): m, n_mlp, n_ch, N, count; RY, 8 layers.
PUBLISHED = [
    (GPT2, 256, 798, 10, 47248),
    (GPT2, 512, 399, 9, 55656),
    (GPT2, 1024, 200, 8, 72512),
    (GPT2, 2048, 100, 7, 106264),
    (GPT2, 4096, 50, 6, 173808),
    (GPT2, 8192, 25, 5, 308936),
    (GEMMA, 1024, 1008, 10, 72592),
    (GEMMA, 4096, 252, 8, 173888),
    (GEMMA, 8192, 126, 7, 309016),
    (GEMMA, 16258, 64, 6, 575154),
    (GEMMA, 32768, 32, 5, 1119944),
    (GEMMA, 65536, 16, 4, 2201248),
    (GPT2_TOKENS, 1024, 384, 9, 72552),
]


def trained(spec):
    return sum(p.numel() for p in QPAGenerator(spec).parameters())


@pytest.mark.parametrize(("m", "n_mlp", "n_ch", "num_qubits", "count"), PUBLISHED)
def test_published_counts(m, n_mlp, n_ch, num_qubits, count):
    spec = QPASpec(m, n_mlp, reps=8, **PAPER)
    assert (spec.num_chunks, spec.num_qubits, spec.num_parameters) == (n_ch, num_qubits, count)
    assert trained(spec) == count


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"chunk_size": 2048, "reps": 16}, 106320),
        ({"chunk_size": 2048, "reps": 32}, 106432),
        ({"chunk_size": 2048, "reps": 64}, 106656),
        ({"chunk_size": 2048, "reps": 128}, 107104),
        ({"chunk_size": 1024, "ansatz": "rx_cnot"}, 72512),
        ({"chunk_size": 1024, "ansatz": "rxrz_cnot"}, 72576),
        ({"chunk_size": 1024, "ansatz": "ryrz_cnot"}, 72576),
    ],
)
def test_published_counts_of_other_circuits(options, count):
    spec = QPASpec(GPT2, **options, **PAPER)
    assert spec.num_parameters == count
    assert trained(spec) == count


@pytest.mark.parametrize(("n_mlp", "num_qubits"), [(1, 30), (1024, 20)])
def test_a_billion_weights(n_mlp, num_qubits):
    spec = QPASpec(10**9, n_mlp, **PAPER)
    assert spec.num_qubits == num_qubits
    assert spec.num_parameters == 38400 + 32 * num_qubits + 33 * n_mlp + 8 * num_qubits


@given(st.integers(1, 5000), st.data())
def test_sizes_follow_the_formulas(m, data):
    n_mlp = data.draw(st.integers(1, m))
    spec = QPASpec(m, n_mlp)
    assert spec.num_chunks == math.ceil(m / n_mlp)
    assert spec.num_qubits == max(1, math.ceil(math.log2(spec.num_chunks)))
    assert 2**spec.num_qubits >= spec.num_chunks


def test_one_chunk_still_has_a_qubit():
    assert QPASpec(7, 7).num_qubits == 1
    assert QPAGenerator(QPASpec(7, 7))().shape == (7,)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("hidden", [(), (16,), (5, 3)])
def test_counts_of_every_source_are_the_modules(source, hidden):
    for m, n_mlp in [(1, 1), (50, 50), (50, 7), (33, 2)]:
        spec = QPASpec(m, n_mlp, reps=3, source=source, hidden=hidden)
        assert trained(spec) == spec.num_parameters


def test_counts_of_sources_by_hand():
    # 13 chunks of 4: N = 4; reps 2: 8 angles. Mapping 5 -> 16 -> 4: 96 + 68; without the feature 4 -> 16 -> 4: 80 + 68.
    counts = {s: QPASpec(50, 4, reps=2, source=s).num_parameters for s in SOURCES}
    assert counts == {"circuit": 164 + 8, "frozen": 164, "free": 164 + 13, "mlp": 164 + 7, "none": 148}


@pytest.mark.parametrize("reps", [1, 4, 8, 20])
@pytest.mark.parametrize("chunk_size", [1, 3, 40])
def test_the_control_mlp_is_about_as_large_as_the_circuit(reps, chunk_size):
    spec = QPASpec(100, chunk_size, reps=reps, source="mlp")
    step = spec.num_qubits + 2  # what one more hidden unit costs
    assert abs(spec.source_parameters - spec.circuit.num_parameters) <= max(step / 2, step + 1 - reps)


settings_of_search = st.fixed_dictionaries(
    {
        "hidden": st.sampled_from([(), (1,), (3,), (16,)]),
        "reps": st.integers(0, 4),
        "source": st.sampled_from(SOURCES),
        "ansatz": st.sampled_from(["ry_cnot", "rxrz_cnot"]),
    }
)


@given(st.integers(1, 120), st.integers(0, 700), settings_of_search)
def test_within_budget_is_the_largest_chunk_that_fits(m, budget, options):
    counts = {size: QPASpec(m, size, **options).num_parameters for size in range(1, m + 1)}
    fitting = [size for size, count in counts.items() if count <= budget]
    if fitting:
        assert QPASpec.within_budget(m, budget, **options) == QPASpec(m, max(fitting), **options)
    else:
        with pytest.raises(ConfigError, match=rf"budget of {budget} .* trains {min(counts.values())}\."):
            QPASpec.within_budget(m, budget, **options)
    assert QPASpec.smallest(m, **options).num_parameters == min(counts.values())


def test_within_budget_just_below_the_next_number_of_qubits():
    # Without angles a chunk of 24 (5 chunks, 3 qubits) trains 80 + 17 * 24 = 488 and one of 25 (2 qubits) 64 + 17 * 25.
    assert QPASpec.within_budget(100, 488, reps=0).chunk_size == 24
    assert QPASpec.within_budget(100, 489, reps=0).chunk_size == 25


def test_within_budget_at_the_papers_size():
    spec = QPASpec.within_budget(GEMMA, 575154, **PAPER)
    assert spec.num_parameters <= 575154
    assert QPASpec(GEMMA, spec.chunk_size + 1, **PAPER).num_parameters > 575154


def test_within_budget_keeps_a_given_circuits_qubits():
    circuit = ansatz("ry_cnot", 3, 2)
    spec = QPASpec.within_budget(100, 10**6, ansatz=circuit)
    assert (spec.num_qubits, spec.chunk_size) == (3, 24)  # 25 would need 2 qubits
    with pytest.raises(ConfigError, match="budget of 5 "):
        QPASpec.within_budget(100, 5, ansatz=circuit)


@pytest.mark.parametrize(
    "search", [lambda **o: QPASpec.within_budget(5, 10**6, **o), lambda **o: QPASpec.smallest(5, **o)]
)
def test_a_circuit_of_more_qubits_than_weights_is_refused(search):
    with pytest.raises(ConfigError, match=r"circuit has 4 qubits; 5 weights .* at most 3 qubits"):
        search(ansatz=ansatz("ry_cnot", 4, 1))


def test_custom_circuit_and_function():
    circuit = CircuitBuilder(2).h(0).cx(0, 1).rx(1).build()
    assert QPASpec(40, 10, ansatz=circuit).circuit is circuit
    assert QPASpec(40, 10, ansatz=circuit).source_parameters == 1

    def two_design(num_qubits, reps):
        return ansatz("simplified_two_design", num_qubits, reps + 1)

    assert QPASpec(40, 10, ansatz=two_design, reps=1).circuit == ansatz("simplified_two_design", 2, 2)


def test_a_circuit_of_other_qubits_is_refused_with_both_numbers():
    with pytest.raises(ConfigError, match="circuit has 3 qubits; 40 weights in chunks of 10 are 4 chunks and need 2 "):
        QPASpec(40, 10, ansatz=ansatz("ry_cnot", 3, 1))
    with pytest.raises(ConfigError, match="asked for 2 qubits and returned a circuit on 3"):
        _ = QPASpec(40, 10, ansatz=lambda num_qubits, reps: ansatz("ry_cnot", 3, reps)).circuit
    with pytest.raises(ConfigError, match="returned a str; expected a qpeft Circuit"):
        _ = QPASpec(40, 10, ansatz=lambda num_qubits, reps: "ry_cnot").circuit


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_size": 0}, "target_size is 0"),
        ({"chunk_size": 0}, "chunk size 0 is not in 1 to 10"),
        ({"chunk_size": 11}, "chunk size 11 is not in 1 to 10"),
        ({"reps": -1}, "reps is -1"),
        ({"hidden": (4, 0)}, r"at least 1; given \(4, 0\)"),
        ({"source": "quantum"}, "'quantum' is not one of circuit, frozen, free, mlp, none"),
        ({"activation": "relo"}, r"unknown activation 'relo'. Did you mean .*'relu'"),
        ({"transform": "scale"}, r"unknown probability transform 'scale'. Did you mean 'scaled'\?"),
        ({"ansatz": "ry_cnto"}, r"unknown ansatz 'ry_cnto'. Did you mean .*'ry_cnot'"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ConfigError, match=message):
        QPASpec(**{"target_size": 10, "chunk_size": 5, **arguments})


def test_a_budget_passes_over_sizes_that_an_own_ansatz_cannot_build():
    def needs_three(num_qubits, reps):
        if num_qubits < 3:
            raise ValueError("need 3")
        return ansatz("ry_cnot", num_qubits, reps)

    assert QPASpec.within_budget(1000, 600, ansatz=needs_three).num_qubits >= 3
    with pytest.raises(ConfigError, match="fails for every size from 1 to 2 qubits: need 3"):
        QPASpec.within_budget(3, 600, ansatz=needs_three)
