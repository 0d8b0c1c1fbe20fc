import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from qiskit.quantum_info import DensityMatrix, state_fidelity

from qpeft.adapters import QPAConfig
from qpeft.adapters.regenerate import Deviation, circuit_generators, deviation, with_exact_weights
from qpeft.errors import ConfigError, EngineError
from qpeft.qcircuits import StatevectorEngine
from tests.tiny_models import gpt2, logits, shake

pytestmark = pytest.mark.filterwarnings("ignore:Model has `tie_word", "ignore:.*is_gradient_checkpointing")
weights = st.lists(st.floats(0, 1), min_size=4, max_size=4).filter(lambda p: sum(p) > 0.1)


def adapted(**options):
    torch.manual_seed(0)
    config = QPAConfig(r=2, target_modules=["lm_head"], chunk_size=32, task_type="CAUSAL_LM", **options)
    return shake(get_peft_model(gpt2(), config).eval())


@given(weights, weights)
def test_the_fidelity_is_that_of_diagonal_states(p, q):
    """Qiskit's Uhlmann fidelity of the density matrices diag(p) and diag(q)."""
    p, q = np.array(p) / sum(p), np.array(q) / sum(q)
    found = Deviation.between(torch.from_numpy(p), torch.from_numpy(q))
    expected = state_fidelity(DensityMatrix(np.diag(p)), DensityMatrix(np.diag(q)), validate=False)
    assert found.fidelity == pytest.approx(expected, abs=1e-6)
    assert found.total_variation == pytest.approx(
        max(p[list(s)].sum() - q[list(s)].sum() for s in subsets()), abs=1e-12
    )


def subsets():
    """All events: the total variation is the largest difference of their probabilities."""
    return [[i for i in range(4) if bits >> i & 1] for bits in range(16)]


def test_probabilities_that_are_not_finite_are_named():
    with pytest.raises(EngineError, match="not finite"):
        Deviation.between(torch.tensor([math.nan, 1.0]), torch.tensor([0.5, 0.5]))


def test_the_deviation_shrinks_with_the_shots_and_repeats():
    found = [deviation(adapted(engine=f"exact:{shots}")) for shots in (100, 10_000, 1_000_000)]
    for shots, one in zip((100, 10_000, 1_000_000), found, strict=True):
        # E[TV] <= sqrt(D / shots) / 2 (Cauchy-Schwarz), and a sample moves it by at most 1 / shots: P(excess > t) <=
        # exp(-2 shots t^2) (McDiarmid), here below 1e-3.
        bound = math.sqrt(16 / shots) / 2 + math.sqrt(3.5 / shots)
        assert 0 < one.total_variation < bound
        assert one.weights == "last_sample"
    assert found[0].fidelity < found[2].fidelity < 1
    assert deviation(adapted(engine="exact:100")) == found[0]


def test_the_deviation_is_that_of_the_sample_the_weights_are_made_of():
    model = adapted(engine="exact:5x")
    ((_, source),), samples = circuit_generators(model), []
    original = source.engine.probabilities
    source.engine.probabilities = lambda circuit, angles: samples.append(original(circuit, angles)) or samples[-1]
    logits(model)
    deviation(model)
    assert len(samples) == 2 and torch.equal(*samples)


def test_of_several_circuits_the_one_that_is_furthest_off():
    torch.manual_seed(0)
    config = QPAConfig(r=1, target_modules=["c_attn"], chunk_size=32, scope="layer", engine="exact:100")
    model = shake(get_peft_model(gpt2(), config).eval())
    found = []
    for generator, source in circuit_generators(model):
        generator.choose_sample()
        p, q = (
            engine.probabilities(generator.spec.circuit, source.angles)
            for engine in (source.engine, StatevectorEngine())
        )
        found.append((p - q).abs().sum().item() / 2)
    assert len(found) == 2 and found[0] != found[1]
    assert deviation(model).total_variation == pytest.approx(max(found), abs=1e-6)
    twin = with_exact_weights(model)
    assert deviation(twin).weights == "exact" and deviation(model).weights == "last_sample"


def test_an_exact_engine_deviates_by_nothing():
    assert deviation(adapted()) == Deviation(0.0, pytest.approx(1.0, abs=1e-12))
    assert deviation(adapted(engine="pennylane", diff_method="backprop")).weights == "exact"


def test_the_exact_copy_shares_every_number():
    model = adapted(engine="exact:10x")
    twin = with_exact_weights(model)
    assert {id(p) for p in twin.parameters()} == {id(p) for p in model.parameters()}
    assert torch.equal(logits(twin), logits(adapted()))


def test_adapters_without_a_circuit_have_neither():
    torch.manual_seed(0)
    lora = get_peft_model(gpt2(), LoraConfig(target_modules=["lm_head"], task_type="CAUSAL_LM"))
    for model in (lora, adapted(source="free"), adapted(source="none")):
        assert deviation(model) is None and circuit_generators(model) == []
        with pytest.raises(ConfigError, match="'default' runs no circuit"):
            with_exact_weights(model)
    assert deviation(adapted(source="frozen", engine="exact:10x")).weights == "last_sample"
