"""Compiled frames against the same frames without a compiler."""

import copy
import gc
import pickle

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from qpeft.errors import ConfigError
from qpeft.generators import traced
from qpeft.generators.frames import (
    CayleyFrame,
    ExponentialFrame,
    GivensFrame,
    HouseholderFrame,
    NeumannFrame,
    NodeFrame,
    PaddedFrame,
    PauliFrame,
    ShannonFrame,
    TaylorFrame,
)
from qpeft.generators.frames.traced import TracedFrame
from qpeft.generators.packed_state import pack_on_save
from qpeft.generators.quantization import QuantizationAware

FRAMES = {
    "pauli": lambda: PauliFrame(64, 3, 3),
    "pauli rows": lambda: PauliFrame(16, 3, 3, truncate="rows"),
    "shannon": lambda: ShannonFrame(768, 3, 3),
    "pad": lambda: PaddedFrame(12, 3, 3, node=PauliFrame),
    "node": lambda: NodeFrame(81, 2, 3, node_size=3),
    "exponential": lambda: ExponentialFrame(12, 3, 3),
    "taylor": lambda: TaylorFrame(12, 3, 3),
    "cayley": lambda: CayleyFrame(12, 3, 3, 2),
    "neumann": lambda: NeumannFrame(12, 3, 3),
    "givens": lambda: GivensFrame(12, 3, 3),
    "givens rows": lambda: GivensFrame(12, 3, 3, truncate="rows"),
    "householder": lambda: HouseholderFrame(12, 3, 3, truncate="rows"),
}


def quantized(numbers):
    return {name: QuantizationAware(6, group=4)(values) for name, values in numbers.items()}


class Bank(nn.Module):
    """Holds frames and what generates them."""

    def __init__(self, *names, prepare=None):
        super().__init__()
        torch.manual_seed(0)
        self.frames = nn.ModuleList(FRAMES[name]() for name in names)
        self.traced = [TracedFrame(frame, prepare) for frame in self.frames]

    def forward(self):
        return [generate() for generate in self.traced]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def counter():
    """The compiler that changes nothing, which counts its graphs."""
    return CompileCounterWithBackend("aot_eager")


def loss(frames):
    return sum((frame * torch.linspace(-1, 1, frame.numel()).view(frame.shape)).sum() for frame in frames)


def assert_same_training(eager, twin, backend, steps=2):
    compiled = torch.compile(twin, backend=backend, fullgraph=True)
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.02) for module in (eager, twin)]
    seen = []
    for _ in range(steps):
        for module, optimizer in zip((eager, compiled), optimizers, strict=True):
            optimizer.zero_grad()
            seen.append(module())
            loss(seen[-1]).backward()
        torch.testing.assert_close(seen[-1], seen[-2], atol=1e-6, rtol=0)
        gradients = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
        expected = {name: p.grad for name, p in eager.named_parameters() if p.grad is not None}
        torch.testing.assert_close(gradients, expected, atol=1e-6, rtol=1e-6)
        for optimizer in optimizers:
            optimizer.step()
    for first, last in zip(seen[0], seen[-1], strict=True):
        assert not torch.allclose(first, last)


@pytest.mark.parametrize("name", FRAMES)
def test_a_compiled_frame_trains_as_without(name, counter):
    eager = Bank(name)
    assert_same_training(eager, copy.deepcopy(eager), counter)
    assert counter.frame_count == 1  # one for every step
    assert counter.op_count < 10  # and the frame is one of them


def test_several_frames_are_one_graph(counter):
    eager = Bank("pauli", "pauli", "taylor", "node")
    with torch.no_grad():
        eager.frames[1].angles.add_(1)
    assert_same_training(eager, copy.deepcopy(eager), counter)
    assert counter.frame_count == 1


def test_numbers_are_quantised_in_the_operator(counter):
    eager = Bank("shannon", "cayley", prepare=quantized)
    for ours, exact in zip(eager(), Bank("shannon", "cayley")(), strict=True):
        assert 1e-4 < (ours - exact).abs().max() < 0.5
    assert_same_training(eager, copy.deepcopy(eager), counter)
    assert counter.frame_count == 1
    assert counter.op_count < 20


class Packed(nn.Module):
    """A frame of numbers that are quantised as they are saved."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.frame = FRAMES["taylor"]()
        self.traced = TracedFrame(self.frame, pack_on_save(self.frame, ["entries"], 8, 32, kappa=1.0).quantized)

    def forward(self):
        return [self.traced()]


@pytest.mark.parametrize("make", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_loaded_numbers_are_used_as_they_are(make, counter):
    eager = Packed()
    saved = eager()[0]
    eager.load_state_dict(eager.state_dict())
    assert torch.equal(eager()[0], saved)
    assert torch.equal(eager.frame(), saved)
    twin = make(eager)
    assert twin.traced.prepare.__self__ is twin.frame.packed_parameters is not eager.frame.packed_parameters
    assert_same_training(eager, twin, counter)
    assert counter.frame_count == 1


class Replaced(nn.Module):
    """Made from other numbers than the frame's own, in part."""

    def __init__(self):
        super().__init__()
        self.frame = FRAMES["shannon"]()
        self.other = nn.Parameter(torch.full_like(self.frame.angles, 0.3))
        self.traced = TracedFrame(self.frame)

    def forward(self):
        return [self.traced({"angles": self.other.sin()})]


def test_values_take_the_place_of_parameters(counter):
    torch.manual_seed(0)
    eager = Replaced()
    with torch.no_grad():
        (given,) = eager()
        eager.frame.angles.copy_(eager.other.sin())
    torch.testing.assert_close(eager.frame(), given)
    assert_same_training(eager, copy.deepcopy(eager), counter)
    assert eager.other.grad.abs().max() > 0
    assert eager.frame.angles.grad is None
    assert eager.frame.u1.angles.grad.abs().max() > 0
    assert counter.frame_count == 1


def test_double_precision_and_no_gradients(counter):
    bank = Bank("neumann", "pauli").double()
    compiled = torch.compile(bank, backend=counter, fullgraph=True)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            for ours, expected in zip(compiled(), bank(), strict=True):
                assert ours.dtype == torch.float64
                assert torch.equal(ours, expected)


def test_autocast_leaves_frames_alone(counter):
    bank = Bank("taylor")
    (expected,) = bank()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not torch.equal(bank.frames[0](), expected)  # what it would do
        assert torch.equal(bank()[0], expected)
        assert torch.equal(torch.compile(bank, backend=counter, fullgraph=True)()[0], expected)


def test_a_frames_refusal_arrives(counter):
    bank = Bank("neumann")
    compiled = torch.compile(bank, backend=counter, fullgraph=True)
    compiled()
    with torch.no_grad():
        bank.frames[0].entries.fill_(1)
    with pytest.raises(ConfigError, match=r"needs \|\|A\|\|_2 < 1"):
        compiled()


def test_names_that_no_parameter_has_are_refused():
    with pytest.raises(ConfigError, match="PauliFrame has no parameter entries; it has angles"):
        TracedFrame(FRAMES["pauli"]())({"entries": torch.zeros(1)})


@pytest.mark.parametrize("make", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_copy_runs_its_own_frame(make, counter):
    first = Bank("pauli")
    other = make(first)
    assert other.traced[0].frame is other.frames[0] is not first.frames[0]
    with torch.no_grad():
        other.frames[0].angles.add_(1)
    numbers = [int(bank.traced[0]._handle) for bank in (first, other)]
    assert numbers[0] != numbers[1]
    expected = [bank()[0] for bank in (first, other)]
    assert not torch.equal(*expected)
    del first
    gc.collect()
    assert torch.equal(torch.compile(other, backend=counter, fullgraph=True)()[0], expected[1])
    assert numbers[0] not in traced._registered and numbers[1] in traced._registered


def test_the_operators_keep_to_torchs_rules():
    generate = TracedFrame(GivensFrame(5, 2, 2, truncate="rows"))
    values = generate.frame.entries.detach().reshape(-1)
    for flat in (values, values.clone().requires_grad_()):
        torch.library.opcheck(torch.ops.qpeft.traced.default, (flat, [], generate._handle, [2, 5, 2]))
    cotangent = torch.linspace(-1, 1, 20).view(2, 5, 2)
    torch.library.opcheck(torch.ops.qpeft.traced_vjp.default, (values, [], generate._handle, cotangent))


@pytest.mark.slow
def test_through_the_default_compiler():
    eager = Bank("pauli rows", "shannon", "node", "neumann", "givens rows", "householder", prepare=quantized)
    assert_same_training(eager, copy.deepcopy(eager), "inductor")
