import copy
import json

import pytest
import torch

from qpeft.errors import ConfigError, EngineError
from qpeft.qcircuits import Engine, SampledEngine, StatevectorEngine, Surrogate, ansatz

CIRCUIT = ansatz("ryrz_cnot", 3, 2)


class Counting(StatevectorEngine):
    """The exact engine, and how often it ran with a gradient and without."""

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "calls", [])

    def probabilities(self, circuit, angles):
        self.calls.append(torch.is_grad_enabled() and angles.requires_grad)
        return super().probabilities(circuit, angles)


def some_angles(*batch, dtype=torch.float64):
    return torch.randn(*batch, CIRCUIT.num_parameters, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("batch", [(), (3,), (2, 2), (0,)], ids=str)
def test_values_of_one_engine_gradients_of_the_other(batch):
    forward, backward = SampledEngine(StatevectorEngine(), 100, seed=1), StatevectorEngine("backprop")
    angles = some_angles(*batch).requires_grad_()
    p = Surrogate(forward, backward).probabilities(CIRCUIT, angles)
    assert torch.equal(p, SampledEngine(StatevectorEngine(), 100, seed=1).probabilities(CIRCUIT, angles))
    upstream = torch.randn(p.shape, dtype=p.dtype)
    (ours,) = torch.autograd.grad(p, angles, upstream)
    (theirs,) = torch.autograd.grad(backward.probabilities(CIRCUIT, angles), angles, upstream)
    assert torch.equal(ours, theirs)


def test_the_cotangent_is_that_of_the_forward_values():
    """The slope of sum p**2 is 2 p dp, with p from the engine in front."""
    engine, angles = SampledEngine(StatevectorEngine(), 10), some_angles().requires_grad_()
    p = Surrogate(engine, StatevectorEngine()).probabilities(CIRCUIT, angles)
    (ours,) = torch.autograd.grad(p.square().sum(), angles)
    (theirs,) = torch.autograd.grad(StatevectorEngine().probabilities(CIRCUIT, angles), angles, 2 * p.detach())
    torch.testing.assert_close(ours, theirs)


def test_each_engine_runs_only_for_what_it_is_there_for():
    forward, backward = Counting(), Counting()
    engine = Surrogate(forward, backward)
    engine.probabilities(CIRCUIT, some_angles())
    with torch.no_grad():
        engine.probabilities(CIRCUIT, some_angles().requires_grad_())
    assert (forward.calls, backward.calls) == ([False, False], [])
    engine.probabilities(CIRCUIT, some_angles().requires_grad_()).sum().backward()
    assert (forward.calls, backward.calls) == ([False] * 3, [True])


def test_an_engine_that_cannot_be_differentiated_trains_behind_one_that_can():
    class Closed(Engine):
        def probabilities(self, circuit, angles):
            assert not torch.is_grad_enabled()
            return StatevectorEngine().probabilities(circuit, angles).detach()

    angles = some_angles().requires_grad_()
    engine = Surrogate(Closed(), StatevectorEngine())
    optimizer = torch.optim.Adam([angles], lr=0.1)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = 1 - engine.probabilities(CIRCUIT, angles)[5]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 < losses[0]


def test_two_sampling_engines_count_the_calls_alike():
    def make():
        return Surrogate(
            SampledEngine(StatevectorEngine(), 50, seed=1),
            SampledEngine(StatevectorEngine(), 50, "parameter-shift", seed=2),
        )

    def gradient(engine):
        angles = some_angles().requires_grad_()
        engine.probabilities(CIRCUIT, angles)[0].backward()
        return angles.grad

    through, resumed = make(), make()
    expected = [gradient(through) for _ in range(3)][-1]
    through.probabilities(CIRCUIT, some_angles())  # an evaluation, without the engine behind
    after = gradient(through)
    resumed.draws.call = 2
    assert torch.equal(gradient(resumed), expected)
    resumed.draws.call = 4
    assert torch.equal(gradient(resumed), after)
    assert not torch.equal(expected, after)


def test_draws_are_those_of_the_engine_that_draws():
    sampled, other = SampledEngine(StatevectorEngine(), 50), SampledEngine(StatevectorEngine(), 50)
    assert Surrogate(sampled, StatevectorEngine()).draws is sampled.draws
    assert Surrogate(StatevectorEngine(), sampled).draws is sampled.draws
    assert Surrogate(sampled, other).draws is sampled.draws
    assert Surrogate(StatevectorEngine(), StatevectorEngine()).draws is None


def test_a_chosen_call_repeats_a_sampled_gradient():
    engine = Surrogate(StatevectorEngine(), SampledEngine(StatevectorEngine(), 50, "spsa"))

    def gradient(call):
        engine.draws.call = call
        angles = torch.full((CIRCUIT.num_parameters,), 0.3, requires_grad=True)
        engine.probabilities(CIRCUIT, angles)[0].backward()
        return angles.grad

    assert torch.equal(gradient(4), gradient(4))
    assert not torch.equal(gradient(4), gradient(5))


def test_a_name_is_no_engine():
    with pytest.raises(ConfigError, match="backward is 'exact'; expected an engine"):
        Surrogate(StatevectorEngine(), "exact")


@pytest.mark.parametrize("front", [True, False], ids=["forward", "backward"])
def test_both_engines_are_checked(front):
    class Small(StatevectorEngine):
        def check(self, circuit, dtype=torch.float32, device="cpu"):
            raise EngineError(f"no room for {dtype} on {device}")

    pair = (Small(), StatevectorEngine())
    with pytest.raises(EngineError, match=r"no room for torch.float64 on cpu"):
        Surrogate(*(pair if front else pair[::-1])).check(CIRCUIT, torch.float64, "cpu")


def test_the_description_has_both():
    described = Surrogate(SampledEngine(StatevectorEngine(), 50), StatevectorEngine("backprop")).describe()
    assert json.loads(json.dumps(described)) == described
    assert described["forward"]["shots"] == "50"
    assert described["backward"] == {"engine": "StatevectorEngine", "diff_method": "backprop"}


def test_a_deep_copy_has_engines_of_its_own():
    engine = Surrogate(SampledEngine(StatevectorEngine(), 50), StatevectorEngine())
    twin = copy.deepcopy(engine)
    assert torch.equal(engine.probabilities(CIRCUIT, some_angles()), twin.probabilities(CIRCUIT, some_angles()))
    twin.probabilities(CIRCUIT, some_angles())
    assert (engine.draws.call, twin.draws.call) == (1, 2)
