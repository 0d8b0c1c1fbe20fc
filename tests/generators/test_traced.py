import copy
import gc
import io
import weakref

import pytest
import torch
import torch.nn.functional as F
from peft import get_peft_model
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from qpeft.adapters import QPAConfig
from qpeft.errors import EngineError
from qpeft.generators import SOURCES, QPAGenerator, QPASpec, traced
from qpeft.qcircuits import BlackBoxEngine, Engine, SampledEngine, StatevectorEngine, Surrogate
from tests.tiny_models import IDS, gpt2, shake

EXACT = StatevectorEngine()


class Outside(BlackBoxEngine):
    """What autograd cannot see through; its draws depend on the call."""

    def evaluate(self, circuit, angles, shots, stream):
        exact = EXACT.probabilities(circuit, angles).numpy()
        return [torch.from_numpy(exact + 1e-3 * stream.generator().random(exact.shape)).to(angles)]


ENGINES = {
    "adjoint": lambda: EXACT,
    "backprop": lambda: StatevectorEngine("backprop"),
    "straight-through": lambda: SampledEngine(EXACT, "20x", seed=5),
    "shifted samples": lambda: SampledEngine(EXACT, "20x", "parameter-shift", seed=5),
    "spsa": lambda: SampledEngine(EXACT, "20x", "spsa", seed=5),
    "outside": Outside,
    "surrogate": lambda: Surrogate(SampledEngine(EXACT, "20x"), EXACT),
}
every_engine = pytest.mark.parametrize("engine", ENGINES)


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def counter():
    """The compiler that changes nothing, which counts its graphs."""
    return CompileCounterWithBackend("aot_eager")


def generator(engine="adjoint", **options):
    torch.manual_seed(0)
    return QPAGenerator(QPASpec(50, 7, reps=2, zero_last=False, **options), ENGINES[engine]())


def loss(vector):
    return (vector - torch.linspace(-1, 1, 50).to(vector)).square().sum()


def gradients(module):
    return {name: p.grad for name, p in module.named_parameters()}


def assert_same_training(eager, twin, backend, steps=2, autocast=False):
    """Equal numbers, gradients and parameters, step after step."""
    compiled = torch.compile(twin, backend=backend, fullgraph=True)
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.1) for module in (eager, twin)]
    vectors = []
    for _ in range(steps):
        for module, optimizer in zip((eager, compiled), optimizers, strict=True):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                vectors.append(module())
            loss(vectors[-1].to(torch.promote_types(vectors[-1].dtype, torch.float32))).backward()
        assert torch.equal(vectors[-2], vectors[-1])
        for name, gradient in gradients(twin).items():
            assert torch.equal(gradient, gradients(eager)[name]), name
        for optimizer in optimizers:
            optimizer.step()
    assert not torch.equal(vectors[0], vectors[-1])


@every_engine
def test_a_compiled_generator_trains_as_without(engine, counter):
    eager = generator(engine)
    assert_same_training(eager, copy.deepcopy(eager), counter)
    assert eager.source.angles.grad.abs().max() > 0
    assert counter.frame_count == 1  # one for all of it and for every step


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_is_one_graph(source, counter):
    eager = generator("straight-through", source=source)
    assert_same_training(eager, copy.deepcopy(eager), counter)
    assert counter.frame_count == 1


@pytest.mark.parametrize("transform", ["identity", "scaled", "tanh_power"])
def test_every_transform_and_double_precision(transform, counter):
    eager = generator(transform=transform).double()
    assert_same_training(eager, copy.deepcopy(eager), counter)
    assert eager().dtype == torch.float64
    assert counter.frame_count == 1


@pytest.mark.parametrize("engine", ["adjoint", "outside"])
def test_autocast_leaves_the_circuit_alone(engine, counter):
    eager = generator(engine)
    assert_same_training(eager, copy.deepcopy(eager), counter, autocast=True)


class Layers(nn.Module):
    """A generator a layer; the first two share an engine."""

    def __init__(self):
        super().__init__()
        shared = ENGINES["straight-through"]()
        torch.manual_seed(1)
        self.generators = nn.ModuleList(
            QPAGenerator(QPASpec(50, n_mlp, zero_last=False), engine)
            for n_mlp, engine in [(7, shared), (4, shared), (7, Outside()), (50, EXACT)]
        )

    def forward(self):
        return torch.stack([generator() for generator in self.generators]).tanh().sum(0)


def test_several_generators_are_one_graph(counter):
    eager = Layers()
    assert_same_training(eager, copy.deepcopy(eager), counter)
    assert counter.frame_count == 1


def test_generators_alike_share_a_graph(counter):
    generators = [generator("outside") for _ in range(12)]  # more than the compiler would recompile for
    for index, gen in enumerate(generators):
        gen.source.angles.data.add_(index)
    compiled = torch.compile(lambda gen: gen(), backend=counter, fullgraph=True)
    for gen in generators:
        assert torch.equal(compiled(gen), gen())
    assert counter.frame_count == 1


@pytest.mark.parametrize("engine", ["adjoint", "shifted samples"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(engine, mode, counter):
    gen = generator(engine)
    compiled = torch.compile(gen, backend=counter, fullgraph=True)
    with mode():
        assert torch.equal(compiled(), gen())
    loss(compiled()).backward()  # and with gradients afterwards
    assert gen.source.angles.grad.abs().max() > 0


@pytest.mark.parametrize("engine", ["backprop", "straight-through", "outside"])
def test_the_operators_keep_to_torchs_rules(engine):
    gen = generator(engine)
    state = [tensor.detach() for tensor in gen.state_dict().values()]
    for angles in (gen.source.angles, gen.source.angles.detach()):
        torch.library.opcheck(
            torch.ops.qpeft.traced.default, (angles, state, gen.source.handle, [2**gen.spec.num_qubits])
        )
    cotangent = torch.linspace(-1, 1, 2**gen.spec.num_qubits)
    torch.library.opcheck(torch.ops.qpeft.traced_vjp.default, (angles, state, gen.source.handle, cotangent))


class Constant(Engine):
    """Knows no angles."""

    def probabilities(self, circuit, angles):
        return angles.new_full((2**circuit.num_qubits,), 2.0**-circuit.num_qubits)


def test_an_engine_without_gradient_gives_zeros(counter):
    gen = QPAGenerator(QPASpec(50, 7, zero_last=False), Constant())
    compiled = torch.compile(gen, backend=counter, fullgraph=True)
    loss(compiled()).backward()
    assert gen.source.angles.grad.abs().max() == 0
    assert gen.mapping.last.weight.grad.abs().max() > 0


def test_a_frozen_circuit_is_not_differentiated(counter):
    asked = []

    class Watched(Outside):
        def evaluate(self, circuit, angles, shots, stream):
            asked.append(len(angles))
            return super().evaluate(circuit, angles, shots, stream)

    gen = QPAGenerator(QPASpec(50, 7, zero_last=False, source="frozen"), Watched())
    loss(torch.compile(gen, backend=counter, fullgraph=True)()).backward()
    assert gen.mapping.last.weight.grad.abs().max() > 0
    assert asked == [1]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_second_derivative_is_refused(backend):
    gen = generator("backprop")
    vector = torch.compile(gen, backend=backend, fullgraph=True)()
    with pytest.raises((EngineError, RuntimeError), match=r"differentiable once|double backward"):
        (gradient,) = torch.autograd.grad(loss(vector), gen.source.angles, create_graph=True)
        gradient.square().sum().backward()


def test_errors_of_the_engine_arrive(counter):
    gen = generator("outside")
    compiled = torch.compile(gen, backend=counter, fullgraph=True)
    compiled()
    gen.source.angles.data.fill_(torch.nan)
    with pytest.raises(EngineError, match="not finite"):
        compiled()


# ---- handles


def saved_and_loaded(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("make", [copy.deepcopy, saved_and_loaded], ids=["deepcopy", "torch.save"])
def test_a_copy_runs_its_own_engine(make, counter):
    first = generator("straight-through")
    other = make(first)
    other.engine.draws.seed = 6  # the copy's alone
    outputs = [torch.compile(gen, backend=counter, fullgraph=True)() for gen in (first, other)]
    assert torch.equal(outputs[0], first())
    assert torch.equal(outputs[1], other())
    assert not torch.equal(outputs[0], outputs[1])
    del first
    gc.collect()
    assert torch.equal(torch.compile(other, backend=counter, fullgraph=True)(), outputs[1])


def test_an_engine_set_later_is_used(counter):
    gen = generator("straight-through")
    compiled = torch.compile(gen, backend=counter, fullgraph=True)
    sampled = compiled()
    gen.engine = gen.source.engine = EXACT
    assert torch.equal(compiled(), gen())
    assert not torch.equal(compiled(), sampled)


def test_moving_a_module_keeps_its_handle(counter):
    gen = generator("straight-through")
    handle = int(gen.source.handle)
    gen.to("meta").to_empty(device="cpu").double()
    assert int(gen.source.handle) == handle
    assert "source.handle" not in gen.state_dict()


def test_handles_keep_nothing_alive(counter):
    gen = generator("outside")
    loss(torch.compile(gen, backend=counter, fullgraph=True)()).backward()
    number, source, engine = int(gen.source.handle), weakref.ref(gen.source), weakref.ref(gen.engine)
    handle, angles = gen.source.handle, gen.source.angles.detach()
    del gen
    torch._dynamo.reset()
    gc.collect()
    assert source() is engine() is None
    assert number not in traced._registered
    with pytest.raises(EngineError, match="is gone"):
        traced.traced_call(handle, [8], angles)


# ---- a whole model


def next_token_loss(model):
    logits = model(input_ids=IDS, use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["exact", "exact:20x"])
def test_an_adapted_model_is_one_graph(engine, counter):
    torch.manual_seed(0)
    config = QPAConfig(target_modules=["c_attn", "lm_head"], r=2, reps=2, chunk_size=32, engine=engine)
    eager = shake(get_peft_model(gpt2(), config)).train()
    twin = copy.deepcopy(eager)
    compiled = torch.compile(twin, backend=counter, fullgraph=True)
    optimizers = [torch.optim.SGD(module.parameters(), lr=1e-3) for module in (eager, twin)]
    for _ in range(2):
        losses = []
        for module, optimizer in zip((eager, compiled), optimizers, strict=True):
            optimizer.zero_grad()
            losses.append(next_token_loss(module))
            losses[-1].backward()
        torch.testing.assert_close(losses[1], losses[0])
        trained = [p.grad for p in eager.parameters() if p.requires_grad]
        for ours, theirs in zip((p.grad for p in twin.parameters() if p.requires_grad), trained, strict=True):
            assert theirs.abs().max() > 0
            torch.testing.assert_close(ours, theirs)
        for optimizer in optimizers:
            optimizer.step()
        for ours, theirs in zip(twin.parameters(), eager.parameters(), strict=True):
            ours.data.copy_(theirs)  # rounding must not choose another sample
    assert counter.frame_count == 1
