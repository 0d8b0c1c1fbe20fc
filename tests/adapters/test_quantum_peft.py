"""The Quantum-PEFT tuner: what is its own; what every method does is in tests/contracts/methods."""

import copy
import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn

from qpeft import frame_settings
from qpeft.adapters import QuantumPEFTConfig, export_lora
from qpeft.errors import ConfigError
from qpeft.generators.frames import FRAMES, Frame, PauliFrame
from qpeft.generators.frames.triangle import TriangularFrame
from qpeft.qcircuits import CircuitBuilder, ansatz
from tests.tiny_models import IDS, gpt2, llama, logits, moved

TARGETS = ["c_attn", "lm_head"]  # Conv1D of 32 -> 96 and a tied Linear of 32 -> 100
SIZES = (32, 96, 100)


def config(targets=TARGETS, **options):
    options = {"r": 3, "lora_alpha": 12, "task_type": "CAUSAL_LM"} | options
    return QuantumPEFTConfig(target_modules=targets, **options)


def adapted(base=None, seed=0, **options):
    """With an adapter at its start."""
    base = gpt2() if base is None else base
    torch.manual_seed(seed)
    return get_peft_model(base, config(**options)).eval()


def trained(base=None, **options):
    return moved(adapted(base, **options), by=0.05)


class Layers(nn.Module):
    """Linear layers of given (in, out), each of which sees a part of the input."""

    def __init__(self, *shapes):
        super().__init__()
        torch.manual_seed(0)
        self.shapes = shapes
        self.layer = nn.ModuleList(nn.Linear(*shape, bias=False) for shape in shapes)

    def forward(self, x):
        return torch.cat([layer(x[..., : layer.in_features]) for layer in self.layer], dim=-1)


def on_layers(*shapes, **options):
    """On Linear layers of these (in, out)."""
    names = [f"layer.{number}" for number in range(len(shapes))]
    return get_peft_model(Layers(*shapes), config(names, task_type=None, **options)).eval()


PAULI = {
    "pauli": {},
    "rows": {"truncate": "rows", "other_sizes": "pad"},
    "deep": {"reps": 3, "ansatz": "ry_cnot"},
    "full": {"other_sizes": "full"},
    "pad": {"other_sizes": "pad"},
    "node": {"parametrization": "node", "node_size": 2, "sublayers": "fig7", "reps": 2},
}
MAPS = {name: {"parametrization": name} for name in FRAMES if name not in ("pauli", "node")}
OTHERS = {
    "low order": {"parametrization": "taylor", "order": 3, "intrinsic_rank": 1},
    "diagonal": {"parametrization": "householder", "triangle": "diagonal", "truncate": "rows"},
    "rademacher": {"diagonal": "rademacher", "tau": 2.0},
    "measured": {"measurement": "log_softmax_square", "init_scale": 0.3, "parametrization": "cayley"},
    "quantised": {"bits": 4, "group_size": 2, "other_sizes": "pad"},
    "adaptive": {"parametrization": "exponential", "bits": 3, "group_size": 16, "kappa": 0.5},
}
WAYS = PAULI | MAPS | OTHERS
SUBTRACTED = ("rademacher", "measured")  # the update of the start


# ---- the update


@pytest.mark.parametrize("name", [name for name in WAYS if name not in SUBTRACTED])
def test_the_update_is_alpha_over_k_times_u_diag_v(name):
    model = trained(**WAYS[name])
    bank = model.base_model.bank()
    frames, diagonals = bank.frames(), bank.diagonal()
    for number, layer in enumerate(bank.layers):
        U, V, values = frames[2 * number][0], frames[2 * number + 1][0], diagonals[number]
        expected = 12 / 3 * sum(values[k] * torch.outer(U[:, k], V[:, k]) for k in range(3))
        update = model.base_model.model.get_submodule(layer).get_delta_weight("default")
        torch.testing.assert_close(update, expected.T if "c_attn" in layer else expected)
        assert torch.linalg.matrix_rank(update) == 3


@pytest.mark.parametrize("name", SUBTRACTED)
def test_the_update_of_the_start_is_subtracted_where_the_diagonal_cannot_be_zero(name):
    start, model = (make(**WAYS[name]).base_model for make in (adapted, trained))
    now, then = ((bank.frames(), bank.diagonal()) for bank in (model.bank(), start.bank()))
    for number, layer in enumerate(model.bank().layers):
        (U, V), (U0, V0) = ([frame[0] for frame in frames[2 * number : 2 * number + 2]] for frames, _ in (now, then))
        assert not torch.allclose(U, U0, atol=1e-2)
        expected = 12 / 3 * ((U * now[1][number]) @ V.T - (U0 * then[1][number]) @ V0.T)
        update = model.model.get_submodule(layer).get_delta_weight("default")
        torch.testing.assert_close(update, expected.T if "c_attn" in layer else expected, rtol=1e-4, atol=1e-5)
        assert torch.linalg.matrix_rank(update, rtol=1e-5) <= 2 * 3


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_those_of_the_summed_weights(tied):
    model, reference = trained(gpt2(tied)), gpt2(tied=False)
    reference.load_state_dict(gpt2(tied).state_dict())
    with torch.no_grad():
        for layer, factors in model.base_model.bank()().items():
            update = 12 / 3 * factors["lora_B"] @ factors["lora_A"]
            reference.get_submodule(layer).weight += update.T if "c_attn" in layer else update
    torch.testing.assert_close(logits(model), logits(reference), rtol=1e-4, atol=1e-4)
    assert (logits(model) - logits(gpt2(tied))).abs().max() > 0.01


@pytest.mark.parametrize("name", [name for name in WAYS if name not in ("low order", "neumann")])
def test_frames_of_the_tuner_are_orthonormal_in_single_precision(name):
    for frame in trained(**WAYS[name]).base_model.bank().frames():
        assert frame.dtype == torch.float32
        torch.testing.assert_close(frame[0].mT @ frame[0], torch.eye(3), rtol=0, atol=1e-5)


def test_a_rank_above_the_smaller_part_of_a_size():
    model = moved(on_layers((6, 13), (13, 6), r=6))  # 6 = 4 + 2, 13 = 8 + 4 + 1
    for frame in model.base_model.bank().frames():
        torch.testing.assert_close(frame[0].mT @ frame[0], torch.eye(6), rtol=0, atol=1e-5)
    model(torch.ones(13)).sum().backward()
    assert all(p.grad is not None for p in model.base_model.bank().parameters())


# ---- counts


def two_design(size, reps=1):
    qubits = int(math.log2(size))
    return (2 * reps + 1) * qubits - 2 * reps


def triangle(size, rank):
    return sum(size - 1 - column for column in range(rank))


# V2 acts on rows that are zero for K <= N2: its numbers are left out.
SPLIT = {96: 2 * two_design(32) + two_design(64), 100: 2 * (2 * two_design(4) + two_design(32)) + two_design(64)}
COUNTS = {  # of frames of 32, 96 and 100 rows with K = 3
    "pauli": ({}, two_design(32), SPLIT[96] + 1, SPLIT[100] + 3 + two_design(32)),
    "two layers": ({"reps": 2, "other_sizes": "pad"}, two_design(32, 2), two_design(128, 2), two_design(128, 2)),
    "full": (
        {"other_sizes": "full"}, two_design(32), SPLIT[96] + 32, SPLIT[100] + 36 + 2 * 4 + two_design(32)
    ),
    "pad": ({"other_sizes": "pad"}, two_design(32), two_design(128), two_design(128)),
    # 5, 7 and 7 digits, each with a node of one number; eq2: m + 2 (m - 1) of them.
    "node": ({"parametrization": "node", "node_size": 2, "other_sizes": "pad"}, 5 + 2 * 4, 7 + 2 * 6, 7 + 2 * 6),
    "triangle": ({"parametrization": "cayley"}, *(triangle(size, 3) for size in SIZES)),
    "masked": ({"parametrization": "givens", "intrinsic_rank": 1}, *(triangle(size, 1) for size in SIZES)),
    "with diagonal": (
        {"parametrization": "taylor", "intrinsic_rank": 2, "triangle": "diagonal"},
        *(triangle(size, 2) + 2 for size in SIZES),
    ),
    "quantised": ({"parametrization": "cayley", "bits": 2, "group_size": 8}, *(triangle(size, 3) for size in SIZES)),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
def test_what_trains(name):
    options, of_32, of_96, of_100 = COUNTS[name]
    model = adapted(**options)  # two c_attn and a head
    expected = 3 * of_32 + 2 * of_96 + of_100 + 3 * 3
    assert model.get_nb_trainable_parameters()[0] == expected


def test_a_node_of_digits_saves_no_signs(tmp_path):
    model = on_layers((27, 9), parametrization="node", node_size=3, r=2)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    # m + 2 (m - 1) nodes of 3 * 2 / 2 numbers
    assert sum(tensor.numel() for tensor in saved.values()) == (3 + 4) * 3 + (2 + 2) * 3 + 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"parametrization": "taylor", "r": 2, "intrinsic_rank": 1, "triangle": "diagonal"}, 98_400),
        ({"parametrization": "taylor", "r": 2, "intrinsic_rank": 1}, 98_304),
        ({"r": 3}, 48 * (2 * (3 * 10 - 2) + 3)),
    ],
)
def test_published_count_of_48_layers_of_1024(options, expected):
    """The paper's 0.098M for GPT-2 medium; its circuits train far less."""
    with torch.device("meta"):
        base = Layers(*[(1024, 1024)] * 48)
    model = get_peft_model(base, config([f"layer.{i}" for i in range(48)], task_type=None, **options))
    assert model.get_nb_trainable_parameters()[0] == expected


# ---- generated together


def counted(monkeypatch):
    calls = []
    forward = {kind: kind.forward for kind in (PauliFrame, FRAMES["cayley"])}
    for kind, method in forward.items():

        def counting(self, method=method):
            calls.append((self.size, self.count))
            return method(self)

        monkeypatch.setattr(kind, "forward", counting)
    return calls


@pytest.mark.parametrize("parametrization", ["pauli", "cayley"])
def test_frames_of_equal_size_come_from_one_call_a_step(monkeypatch, parametrization):
    model = trained(llama(layers=3), targets=["q_proj", "o_proj", "k_proj"], parametrization=parametrization)
    calls = counted(monkeypatch)
    for _ in range(2):
        calls.clear()
        model(IDS, labels=IDS, use_cache=False).loss.backward()
        # Sizes 32 of both sides of q and o and of the inputs of k, and 16 of its outputs, in 3 layers.
        assert sorted(calls) == [(16, 3), (32, 15)]


def test_a_generator_runs_once_however_many_tokens_are_decoded(monkeypatch):
    model = trained(llama(), targets=["q_proj"])
    calls = counted(monkeypatch)
    model.generate(input_ids=IDS, max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=None)
    assert calls == [(32, 4)]


# ---- precision


@pytest.mark.parametrize("name", ["pauli", "cayley", "quantised", "rademacher"])
def test_a_base_in_half_precision_keeps_frames_in_single(name):
    model = trained(gpt2().to(torch.bfloat16), **WAYS[name]).train()
    bank = model.base_model.bank()
    assert {t.dtype for t in [*bank.parameters(), *bank.buffers()]} == {torch.float32}
    for frame in bank.frames():
        torch.testing.assert_close(frame[0].mT @ frame[0], torch.eye(3), rtol=0, atol=1e-5)
    model(IDS, labels=IDS).loss.backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in bank.parameters())
    torch.testing.assert_close(logits(model.eval()).float(), logits(trained(**WAYS[name])), rtol=0, atol=0.2)


@pytest.mark.parametrize("name", ["pauli", "taylor", "givens"])
def test_autocast_leaves_frames_alone(name):
    model = trained(**WAYS[name])
    exact = [factors["lora_A"] for factors in model.base_model.bank()().values()]
    with torch.autocast("cpu", torch.bfloat16):
        model(IDS)
        layers = [model.base_model.model.get_submodule(layer) for layer in model.base_model.bank().layers]
        inside = [layer.lora_A["default"].weight for layer in layers]
    for one, other in zip(inside, exact, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["pauli", "cayley", "rademacher", "quantised"])
def test_double_precision_is_followed(name):
    model = trained(**WAYS[name])
    expected = logits(model)
    model.double()
    frames = model.base_model.bank().frames()
    assert {frame.dtype for frame in frames} == {torch.float64}
    for frame in frames:
        torch.testing.assert_close(frame[0].mT @ frame[0], torch.eye(3).double(), rtol=0, atol=1e-13)
    torch.testing.assert_close(logits(model).float(), expected, rtol=1e-4, atol=1e-4)


# ---- export


def test_an_exported_adapter_is_a_plain_lora_of_v_and_u_diag(tmp_path):
    model = trained()
    expected, bank = logits(model), model.base_model.bank()
    frames, diagonals = bank.frames(), bank.diagonal()
    export_lora(model, tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    data = json.loads((tmp_path / "adapter_config.json").read_text())
    assert data["peft_type"] == "LORA"
    scale = data["lora_alpha"] / data["r"]
    for number, layer in enumerate(bank.layers):
        A, B = (saved[f"base_model.model.{layer}.lora_{role}.weight"] for role in "AB")
        U, V = frames[2 * number][0], frames[2 * number + 1][0]
        torch.testing.assert_close(A @ A.T, torch.eye(3), rtol=0, atol=1e-5)
        torch.testing.assert_close(A, V.T)
        torch.testing.assert_close(scale * B, 12 / 3 * U * diagonals[number])
    loaded = PeftModel.from_pretrained(gpt2(), tmp_path)
    assert type(loaded.peft_config["default"]) is LoraConfig
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-4)


@st.composite
def ways(draw):
    """Settings that fit layers of 12 x 16 and 9 x 12 inputs and outputs."""
    options = {"r": draw(st.integers(1, 4)), "parametrization": draw(st.sampled_from(sorted(FRAMES)))}
    kind = options["parametrization"]
    if kind in ("pauli", "node"):
        options |= {"reps": draw(st.integers(0, 2)), "other_sizes": draw(st.sampled_from(["single", "full", "pad"]))}
    else:
        options |= {"intrinsic_rank": draw(st.integers(1, options["r"]))}
        options |= {"triangle": draw(st.sampled_from(["strict", "diagonal"]))}
    if kind == "node":
        options |= {"node_size": 2, "sublayers": draw(st.sampled_from(["eq2", "fig7"]))}
    if kind in ("taylor", "neumann"):
        options |= {"order": draw(st.integers(1, 5)), "init_scale": 0.1}
    if kind in ("pauli", "givens", "householder"):
        rows = kind != "pauli" or options["other_sizes"] == "pad"
        options |= {"truncate": draw(st.sampled_from(["columns", "rows"] if rows else ["columns"]))}
    options |= draw(st.sampled_from([{}, {"diagonal": "rademacher"}, {"measurement": "square"}]))
    if draw(st.booleans()):
        options |= {"bits": draw(st.integers(1, 8)), "group_size": 1, "kappa": draw(st.sampled_from([0.0, 1.0]))}
    return options


@given(ways(), st.integers(0, 99))
@settings(max_examples=12)
def test_saving_loading_and_exporting_give_the_same_update(tmp_path_factory, options, seed):
    shapes, folder = [(16, 12), (12, 9)], tmp_path_factory.mktemp("adapter")
    torch.manual_seed(seed)
    model = moved(on_layers(*shapes, **options), by=0.02, seed=seed)
    x = torch.randn(5, 16)
    with torch.no_grad():
        expected = model(x)
        model.save_pretrained(folder / "own")
        loaded = PeftModel.from_pretrained(Layers(*shapes), folder / "own").eval()
        assert torch.equal(loaded(x), expected)
        loaded.save_pretrained(folder / "again")
        one, other = (load_file(folder / name / "adapter_model.safetensors") for name in ("own", "again"))
        torch.testing.assert_close(one, other, rtol=0, atol=0)
        export_lora(loaded, folder / "lora")
        torch.testing.assert_close(
            PeftModel.from_pretrained(Layers(*shapes), folder / "lora")(x), expected, rtol=1e-4, atol=1e-4
        )


# ---- circuits of one's own


def own(num_qubits, reps):
    builder = CircuitBuilder(num_qubits)
    for layer in range(reps + 1):
        for qubit in range(num_qubits):
            builder.ry(qubit)
        builder.cx(layer % num_qubits, (layer + 1) % num_qubits)
    return builder.build()


@pytest.mark.parametrize("given", [own, own(5, 2)], ids=["function", "circuit"])
def test_a_circuit_of_ones_own_is_saved_and_loaded(tmp_path, given):
    options = {"ansatz": given} | ({"reps": 2} if given is own else {})
    model = trained(llama(), targets=["q_proj", "o_proj"], **options)  # 32 x 32
    (frame,) = model.base_model.bank().frames.by_size.values()
    assert frame.circuit == own(5, 2)
    model.save_pretrained(tmp_path / "one")
    data = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert data["ansatz"] == "custom"
    assert data["resolved"]["circuits"] == [own(5, 2).to_dict()]
    loaded = PeftModel.from_pretrained(llama(), tmp_path / "one")
    assert torch.equal(logits(loaded), logits(model))
    loaded.save_pretrained(tmp_path / "two")
    again = PeftModel.from_pretrained(llama(), tmp_path / "two")
    assert torch.equal(logits(again), logits(model))
    assert (tmp_path / "one" / "adapter_config.json").read_text() == (
        tmp_path / "two" / "adapter_config.json"
    ).read_text()


def test_a_function_is_saved_as_its_circuits_of_all_sizes(tmp_path):
    model = trained(ansatz=own, reps=1)
    model.save_pretrained(tmp_path)
    circuits = json.loads((tmp_path / "adapter_config.json").read_text())["resolved"]["circuits"]
    # In the order of sizes 32, 96 = 64 + 32 and 100 = 64 + 32 + 4: the same in every process.
    assert [circuit["num_qubits"] for circuit in circuits] == [5, 6, 2]
    assert torch.equal(logits(PeftModel.from_pretrained(gpt2(), tmp_path)), logits(model))


def another(num_qubits, reps):
    return ansatz("ry_cnot", num_qubits, reps)


@pytest.mark.parametrize("change", [lambda made: dataclasses.replace(made, ansatz=another), lambda made: made])
def test_another_function_makes_another_adapter(change):
    mine = config(ansatz=own, reps=1)
    get_peft_model(gpt2(), mine)
    new = change(mine)
    new.ansatz = another
    model = get_peft_model(gpt2(), new)
    assert model.base_model.bank().frames.by_size["32"].circuit == another(5, 1)
    assert another(5, 1).to_dict() in new.resolved["circuits"]


def test_a_saved_adapter_does_not_take_another_circuit(tmp_path):
    trained(ansatz=own, reps=1).save_pretrained(tmp_path)
    read = QuantumPEFTConfig.from_pretrained(tmp_path)
    read.ansatz = another
    with pytest.raises(ConfigError, match="its config's ansatz changed since it was built"):
        PeftModel.from_pretrained(gpt2(), tmp_path, config=read)


def test_a_saved_circuit_needs_its_name_no_more(tmp_path):
    model = trained(ansatz="ry_cnot")
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(path.read_text().replace('"ry_cnot"', '"gone"'))
    assert torch.equal(logits(PeftModel.from_pretrained(gpt2(), tmp_path)), logits(model))


def test_a_function_of_changing_circuits_is_refused():
    calls = iter(range(99))
    base = gpt2()
    with pytest.raises(ConfigError, match=r"different circuits for the same number of qubits.* returns the same"):
        get_peft_model(base, config(ansatz=lambda qubits, reps: own(qubits, next(calls))))
    assert_untouched(base)


def test_a_circuit_of_ones_own_that_was_never_built_cannot_be(tmp_path):
    config(["c_attn"], ansatz=own).save_pretrained(tmp_path)
    read = QuantumPEFTConfig.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"ansatz is 'custom'.* does not hold.* Give the circuit again"):
        get_peft_model(gpt2(), read)
    read.ansatz = own
    get_peft_model(gpt2(), read)


# ---- loading elsewhere and edited files


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound") / "adapter"
    trained(reps=2).save_pretrained(folder)
    return folder


def edited(sound, folder, change):
    data = json.loads((sound / "adapter_config.json").read_text())
    change(data)
    (folder / "adapter_config.json").write_text(json.dumps(data))
    (folder / "adapter_model.safetensors").write_bytes((sound / "adapter_model.safetensors").read_bytes())
    return folder


EDITS = {
    "reps": 1, "r": 2, "ansatz": "ry_cnot", "truncate": "rows", "other_sizes": "full", "diagonal": "rademacher",
    "measurement": "square", "bits": 4,
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_setting_is_refused(sound, tmp_path, name):
    base = gpt2()
    folder = edited(sound, tmp_path, lambda data: data.update({name: EDITS[name]}))
    with pytest.raises(ConfigError, match=f"its config's {name} changed since it was built"):
        PeftModel.from_pretrained(base, folder)
    assert_untouched(base)


DAMAGES = {
    "a circuit less": (lambda resolved: resolved["circuits"].pop(), "resolved is .*not of 2.*damaged"),
    "no circuits": (lambda resolved: resolved.update(circuits=[]), "circuits of no qubits.*damaged"),
    "circuits that are none": (lambda resolved: resolved.update(circuits=["x"]), "resolved is .*damaged"),
    "no targets": (lambda resolved: resolved.pop("targets"), "resolved is .*damaged"),
    "targets that are none": (lambda resolved: resolved.update(targets=[3]), "resolved is .*damaged"),
    "a target without a name": (lambda resolved: resolved["targets"][0].pop(0), "resolved is .*damaged"),
    "no defaults": (lambda resolved: resolved.pop("defaults"), "resolved is .*damaged"),
    "defaults of no setting": (lambda resolved: resolved["defaults"].update(ordre=3), "resolved is .*damaged"),
    "other settings": (lambda resolved: resolved.update(settings={}), "cannot be rebuilt"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_config_is_refused(sound, tmp_path, name):
    change, message = DAMAGES[name]
    base = gpt2()
    with pytest.raises(ConfigError, match=message):
        PeftModel.from_pretrained(base, edited(sound, tmp_path, lambda data: change(data["resolved"])))
    assert_untouched(base)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (lambda: gpt2(vocabulary=90), "rebuilt: lm_head is 90 x 32 here and was 100 x 32. Load it unchanged"),
        (
            lambda: gpt2(layers=1),
            r"rebuilt: this model's targets have no transformer\.h\.1\.attn\.c_attn, for which it was made. Load it",
        ),
        (
            lambda: gpt2(layers=6),
            r"not made for transformer\.h\.2\.attn\.c_attn, which this model's targets have;.* \(and 1 more\)",
        ),
    ],
    ids=["vocabulary", "fewer layers", "more layers"],
)
def test_another_model_is_refused(sound, base, message):
    model = base()
    with pytest.raises(ConfigError, match=message):
        PeftModel.from_pretrained(model, sound)
    assert_untouched(model)


class Named(nn.Module):
    """Layers registered in a given order, which compute the same in any."""

    def __init__(self, order=("query", "value", "out")):
        super().__init__()
        layers = {}
        torch.manual_seed(0)
        for name, shape in {"query": (8, 8), "value": (8, 8), "out": (8, 5)}.items():
            layers[name] = nn.Linear(*shape, bias=False)
        for name in order:
            setattr(self, name, layers[name])

    def forward(self, x):
        return self.out(torch.tanh(self.value(torch.tanh(self.query(x)))))


BANKS = {"frames": {"diagonal": "rademacher"}, "networks": {"network": "cp", "parametrization": "cayley"}}


@pytest.mark.parametrize("name", BANKS)
def test_layers_registered_in_another_order_get_their_own_weights(tmp_path, name):
    options, x = {"r": 2, "task_type": None} | BANKS[name], torch.linspace(-2, 2, 24).sin().view(3, 8)
    model = moved(get_peft_model(Named(), config(["query", "value", "out"], **options))).eval()
    model.save_pretrained(tmp_path / "one")
    loaded = PeftModel.from_pretrained(Named(["out", "value", "query"]), tmp_path / "one").eval()
    assert torch.equal(loaded(x), model(x)) and not torch.allclose(model(x), Named()(x), atol=1e-2)
    loaded.save_pretrained(tmp_path / "two")  # from where it still fits both
    assert torch.equal(PeftModel.from_pretrained(Named(), tmp_path / "two").eval()(x), model(x))


@pytest.mark.parametrize("name", BANKS)
def test_layers_of_other_names_and_equal_shapes_are_refused(tmp_path, name):
    get_peft_model(Named(), config(["query"], task_type=None, r=2, **BANKS[name])).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": ["value"]}))
    with pytest.raises(ConfigError, match="have no query, for which it was made; it was not made for value, which"):
        PeftModel.from_pretrained(Named(), tmp_path)


DEFAULTS = {
    "pauli": ({}, {"truncate": "columns", "other_sizes": "single", "measurement": "identity"}),
    "node": (
        {"parametrization": "node", "node_size": 2},
        {"sublayers": "eq2", "reps": 1, "other_sizes": "single", "measurement": "identity"},
    ),
    "taylor": (
        {"parametrization": "taylor", "bits": 4, "diagonal": "rademacher"},
        {"order": 18, "triangle": "strict", "intrinsic_rank": 3, "group_size": 128, "kappa": 0.0, "tau": 1.0},
    ),
    "network": (
        {"network": "cp", "parametrization": "givens", "triangle": "diagonal"},
        {"modes": 2, "truncate": "columns", "intrinsic_rank": 3, "measurement": "identity"},
    ),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_settings_left_out_came_to_is_saved(tmp_path, name):
    options, expected = DEFAULTS[name]
    trained(**options).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["resolved"]["defaults"] == expected


@pytest.mark.parametrize(
    ("options", "place", "name", "value"),
    [
        ({"parametrization": "taylor"}, (FRAMES["taylor"].__init__, "__kwdefaults__"), "order", 2),
        ({"parametrization": "cayley"}, (TriangularFrame.__init__, "__kwdefaults__"), "triangle", "diagonal"),
        (
            {"parametrization": "node", "node_size": 2}, (FRAMES["node"].__init__, "__kwdefaults__"), "sublayers",
            "fig7",
        ),
        ({"parametrization": "node", "node_size": 2}, (FRAMES["node"].__init__, "__kwdefaults__"), "reps", 2),
        ({}, (frame_settings, "__dict__"), "OTHER_SIZE", "pad"),
        ({"parametrization": "cayley", "bits": 4}, (frame_settings, "__dict__"), "GROUP_SIZE", 8),
        ({"parametrization": "cayley", "bits": 4}, (frame_settings, "__dict__"), "KAPPA", 1.0),
        ({"parametrization": "cayley", "network": "cp"}, (frame_settings, "__dict__"), "MODES", [8, 12, 4, 8]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_another_default_leaves_saved_adapters_as_they_are(tmp_path, monkeypatch, options, place, name, value):
    model = trained(targets=["c_attn"], init_scale=1.5 if "order" in name else None, **options)
    expected, before = logits(model), {key: t.shape for key, t in model.base_model.bank().state_dict().items()}
    model.save_pretrained(tmp_path / "one")
    monkeypatch.setitem(getattr(*place), name, value)
    loaded = PeftModel.from_pretrained(gpt2(), tmp_path / "one")
    assert torch.equal(logits(loaded), expected)
    loaded.save_pretrained(tmp_path / "two")
    assert torch.equal(logits(PeftModel.from_pretrained(gpt2(), tmp_path / "two")), expected)
    fresh = trained(targets=["c_attn"], **options)  # the default did change
    after = {key: t.shape for key, t in fresh.base_model.bank().state_dict().items()}
    assert after != before or name == "order"


def test_a_config_that_was_used_may_be_changed_for_a_new_adapter(sound):
    mine = config()
    get_peft_model(gpt2(), mine)
    mine.reps = 3
    get_peft_model(gpt2(vocabulary=90), mine)
    read = QuantumPEFTConfig.from_pretrained(sound)
    with pytest.raises(ConfigError, match="cannot be rebuilt"):
        get_peft_model(gpt2(layers=1), read)
    get_peft_model(gpt2(layers=1), dataclasses.replace(read, resolved=None))


# ---- bad input


def assert_untouched(base):
    assert not any("lora" in name for name, _ in base.named_modules())
    assert not any(module._forward_pre_hooks for module in base.modules())
    assert not hasattr(base, "peft_config")


TAYLOR = {"parametrization": "taylor"}
BAD = {
    "N < 2": ([(4, 1)], {"r": 1}, r"layer\.0 is 1 x 4: .* at least 2; leave the layer out"),
    "K > N": ([(8, 8), (8, 4)], {"r": 5}, r"rank 5 is above .* layer\.1 \(4 x 8\).* above 4\. Lower the rank"),
    "K' > K": ([], TAYLOR | {"r": 2, "intrinsic_rank": 3}, "K' is 3, above the rank K = 2; use 1 to 2, or raise r"),
    "K' < 1": ([], TAYLOR | {"intrinsic_rank": 0}, "intrinsic_rank is 0; .* at least 1"),
    "P < 1": ([], TAYLOR | {"order": 0}, "order is 0; it must be a whole number of at least 1"),
    "P": ([], TAYLOR | {"order": 2.5}, "order is 2.5; it must be a whole number"),
    "reps": ([], {"reps": -1}, "reps is -1; .* at least 0"),
    "text as a number": ([], TAYLOR | {"init_scale": "1"}, "init_scale is '1'; it must be a finite number"),
    "0 bits": ([], {"bits": 0}, "bits is 0; allowed are the whole numbers 1 to 8"),
    "9 bits": ([], {"bits": 9}, "bits is 9; allowed are the whole numbers 1 to 8"),
    "a group of all layers": (
        [(8, 8), (8, 8)], {"bits": 4}, r"size N = 8: a .*group of 128 is larger .* 28 numbers .* use a group of 1 to 28"
    ),
    "no group": ([], {"bits": 4, "group_size": 0}, "group_size is 0; .* at least 1"),
    "a group without bits": ([], {"group_size": 8}, "group_size needs bits, .* set bits to 1 to 8, or leave it out"),
    "order of a circuit": ([], {"order": 3}, "order is no setting of .*'pauli': leave order out; it takes truncate"),
    "a circuit of a series": ([], TAYLOR | {"ansatz": "ry_cnot"}, "ansatz is no setting of parametrization 'taylor'"),
    "layers of a series": ([], TAYLOR | {"reps": 2}, "reps is no setting of parametrization 'taylor'"),
    "other sizes of a series": ([], TAYLOR | {"other_sizes": "pad"}, "other_sizes is no setting of taylor"),
    "rank of a circuit": ([], {"intrinsic_rank": 1}, "intrinsic_rank is no setting of parametrization 'pauli'"),
    "a complex circuit": (
        [(8, 8)], {"ansatz": "rxrz_cnot"}, "size N = 8: the circuit is complex because of .* rx, rz.*Use real gates"
    ),
    "qubits": (
        [(8, 12)], {"ansatz": own(3, 1)}, r"frames of size N = 12: the circuit has 3 qubits; .* N = 4 needs 2"
    ),
    "layers of a given circuit": ([], {"ansatz": own(2, 1), "reps": 2}, "reps is 2, but the Circuit .* leave it out"),
    "no angles": ([(4, 4)], {"ansatz": CircuitBuilder(2).h(0).build()}, "no angles, so nothing would train; give one"),
    "no circuit": ([(4, 4)], {"ansatz": lambda qubits, reps: 3}, "returned a int; expected a qpeft Circuit"),
    "an unknown circuit": ([(4, 4)], {"ansatz": "ry_cnott"}, "unknown ansatz 'ry_cnott'. Did you mean 'ry_cnot'"),
    "an unknown circuit, without a model": ([], {"ansatz": "ry_cnott"}, "unknown ansatz 'ry_cnott'. Did you mean"),
    "an unknown triangle": ([], TAYLOR | {"triangle": "x"}, "triangle must be 'strict' or 'diagonal'"),
    "a measured sign": (
        [], {"diagonal": "rademacher", "measurement": "square"}, "measurement is no setting of diagonal 'rademacher'"
    ),
    "a warm number": ([], {"tau": 2.0}, "tau is no setting of diagonal 'real'"),
    "a cold sign": ([(4, 4)], {"diagonal": "rademacher", "tau": 0.5}, "tau is 0.5; .* at least 1"),
    "probability of one": ([(4, 4)], {"r": 1, "measurement": "log_softmax_square"}, "use a size of at least 2"),
    "norm of a Neumann series": (
        [(8, 8)], {"parametrization": "neumann", "init_scale": 9.0}, r"needs \|\|A\|\|_2 < 1, .* a smaller init_scale"
    ),
    "no node": ([], {"parametrization": "node"}, "needs node_size, the size N' of a node, e.g. 2"),
    "sizes of a node": (
        [(32, 32)], {"parametrization": "node", "node_size": 4},
        "size N = 32: .* powers of 4 alone, not 32; use node_size=2",
    ),
    "parts of a node": (
        [(16, 36)], {"parametrization": "node", "node_size": 4, "r": 2},
        "size N = 36: they are put together from frames of size 32, 4, .* powers of 4 alone, not 32",
    ),
    "rows of a decomposition": (
        [(16, 12)], {"truncate": "rows"}, "size N = 12: truncate is 'rows', .* or other_sizes='pad'"
    ),
    "DoRA": ([], {"use_dora": True}, "use_dora=True is not available for Quantum-PEFT"),
    "ranks of one's own": ([], {"rank_pattern": {"layer.0": 2}}, "rank_pattern=.* is not available for Quantum-PEFT"),
    "an unknown map": ([], {"parametrization": "cayle"}, "unknown frame 'cayle'. Did you mean 'cayley'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_before_the_model_is_touched(name):
    shapes, options, message = BAD[name]
    base = Layers(*shapes)
    with pytest.raises(ConfigError, match=message):
        made = config([f"layer.{i}" for i in range(len(shapes))] or ["layer"], task_type=None, **options)
        assert shapes, "without a model"
        get_peft_model(base, made)
    assert_untouched(base)


def test_a_refused_adapter_leaves_those_that_are_there():
    model = trained()
    before = logits(model)
    with pytest.raises(ConfigError, match="complex"):
        model.add_adapter("two", config(ansatz="rxrz_cnot"))
    assert list(model.peft_config) == ["default"]
    assert torch.equal(logits(model), before)


def test_a_saved_neumann_series_loads_whatever_it_starts_from(tmp_path):
    """Its own numbers are fine, and the random ones before them count for nothing."""
    torch.manual_seed(0)
    model = on_layers((8, 8), parametrization="neumann", init_scale=0.1)
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    data = json.loads(path.read_text())
    data["init_scale"] = data["resolved"]["settings"]["init_scale"] = 9.0  # one that would be refused at the start
    path.write_text(json.dumps(data))
    loaded = PeftModel.from_pretrained(Layers((8, 8)), tmp_path)
    x = torch.randn(2, 8)
    assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("name", ["by_size", "frames", "32", "angles", "diagonal", "u1"])
def test_adapter_names_that_would_lose_tensors_when_saving_are_refused(name):
    with pytest.raises(ConfigError, match=f"'{name}' cannot name an adapter"):
        trained().add_adapter(name, config())


# ---- training


@pytest.mark.parametrize("name", [*MAPS, "pauli", "node", "rademacher", "measured", "quantised", "adaptive"])
def test_a_few_steps_reduce_the_loss(name):
    model = adapted(**WAYS[name])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)

    def loss():
        return model(IDS, labels=IDS).loss

    with torch.no_grad():
        first = loss()
    for _ in range(12):
        optimizer.zero_grad()
        model.train()
        loss().backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        assert loss() < first - 0.05


def test_at_the_start_only_the_diagonal_moves_and_then_everything():
    model = adapted()
    bank = model.base_model.bank()
    for moves_frames in (False, True):
        model.zero_grad()
        model(IDS, labels=IDS).loss.backward()
        assert bank.diagonal.weight.grad.abs().max() > 0
        frames = [p.grad.abs().max() > 0 for p in bank.frames.parameters()]
        assert all(frames) if moves_frames else not any(frames)
        torch.optim.SGD(bank.parameters(), lr=0.1).step()


def test_signs_are_drawn_in_training_alone():
    model = moved(adapted(diagonal="rademacher"), by=0.5)
    expected, weight = logits(model), model.base_model.bank().diagonal.weight
    assert torch.equal(logits(model), expected)
    model.train()
    start, drawn = weight.detach().clone(), []
    for step in (1, 2, 3, 0):  # signs are drawn once for each state of the numbers
        weight.data = start + 1e-3 * step
        drawn.append(model(IDS).logits.detach())
    assert any((one - drawn[0]).abs().max() > 0.01 for one in drawn[1:])
    logits(model)  # without gradients, in training mode: what is kept of it is a sample
    model.eval()
    assert torch.equal(logits(model), expected)
    assert torch.equal(model(IDS).logits, expected)


@pytest.mark.parametrize("how", ["merge", "unmerge", "set_adapter"])
def test_what_is_merged_or_unmerged_in_training_mode_is_no_sample(how):
    """As it is left by a trainer: a sample would stay in the weights of the base model for good."""
    model = moved(adapted(diagonal="rademacher"), by=0.5)
    expected = logits(model)
    if how == "merge":
        found = logits(model.train().merge_and_unload().eval())
    else:
        model.train().merge_adapter()
        assert model.base_model.bank().training
        model.unmerge_adapter() if how == "unmerge" else model.set_adapter("default")
        found = logits(model.eval())
        with model.disable_adapter():
            torch.testing.assert_close(logits(model), logits(gpt2()), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_measurement_starts_at_zero_and_squares():
    model = adapted(measurement="square")
    assert torch.equal(logits(model), logits(gpt2()))
    moved(model)
    bank = model.base_model.bank()
    torch.testing.assert_close(bank.diagonal(), bank.diagonal.weight**2)


def test_quantised_training_sees_what_is_saved(tmp_path):
    model = trained(parametrization="cayley", bits=2, group_size=8)
    entries = dict(model.base_model.bank().frames.named_parameters())
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(gpt2(), tmp_path, is_trainable=True)
    assert torch.equal(logits(loaded), logits(model))
    for name, values in loaded.base_model.bank().frames.named_parameters():
        assert not torch.equal(values, entries[name])  # which were finer
        for group in values.flatten()[: values.numel() // 8 * 8].view(-1, 8):
            assert len(group.unique()) <= 4
    size = sum(tensor.nbytes for tensor in load_file(tmp_path / "adapter_model.safetensors").values())
    numbers = sum(entry.numel() for entry in entries.values())
    # n + 32 / g bits a number, a last group that is not full and one byte for n, and the diagonal in full
    assert size <= numbers * (2 + 32 / 8) / 8 + len(entries) * (4 + 1 + 1) + 9 * 4


def test_a_copy_of_a_quantised_model_is_independent():
    model = trained(parametrization="cayley", bits=3, group_size=8)
    expected = logits(model)
    twin = copy.deepcopy(model)
    moved(twin, seed=4)
    assert not torch.allclose(logits(twin), expected, atol=1e-3)
    assert torch.equal(logits(model), expected)


def test_the_paper_truncates_to_rows():
    """U = Q[:K, :]^T of the circuit's matrix Q."""
    model = on_layers((8, 8), truncate="rows", r=2)
    (frame,) = model.base_model.bank().frames.by_size.values()
    assert isinstance(frame, Frame)
    columns = PauliFrame(8, 8, count=2)
    columns.load_state_dict(frame.state_dict())
    U, V = (found[0] for found in model.base_model.bank().frames())
    torch.testing.assert_close(torch.stack([U, V]), columns()[:, :2].mT)
    assert frame.circuit == ansatz("simplified_two_design", 3, 1)


@pytest.mark.parametrize("options", [{"diagonal": "rademacher"}, {"measurement": "square"}], ids=str)
def test_the_frozen_start_of_a_quantised_adapter_is_packed_too(tmp_path, options):
    model = trained(parametrization="taylor", bits=2, group_size=32, **options)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    diagonals = [tensor for name, tensor in saved.items() if "diagonal" in name]
    assert [tensor.numel() for tensor in diagonals] == [3 * 3]
    numbers = model.get_nb_trainable_parameters()[0] - 3 * 3 + model.base_model.bank().num_frozen
    bits = 8 * (sum(tensor.nbytes for tensor in saved.values()) - 4 * 3 * 3)
    assert bits / numbers == pytest.approx(2 + 32 / 32, abs=0.1)  # a group that is not full costs as much
    loaded = PeftModel.from_pretrained(gpt2(), tmp_path, low_cpu_mem_usage=True)
    assert torch.equal(logits(loaded), logits(model))


def test_the_shared_angle_of_a_decomposition_is_saved_as_it_is(tmp_path):
    model = trained(targets=["c_attn"], bits=2, group_size=4)  # 96 = 64 + 32 outputs in two layers
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    of_96 = {name.split("by_size.96.")[1]: tensor for name, tensor in saved.items() if "by_size.96." in name}
    assert of_96["angles"].shape == (2, 1) and of_96["angles"].dtype == torch.float32
    parts = {f"{factor}.angles.{part}" for factor in ("u1", "u2", "v1") for part in ("codes", "scale", "zero", "bits")}
    assert of_96.keys() == {"angles", *parts}
    assert of_96["u1.angles.codes"].numel() == 2 * two_design(64) * 2 // 8
    angles = PeftModel.from_pretrained(gpt2(), tmp_path).base_model.bank().frames.by_size["96"].angles
    assert torch.equal(angles, model.base_model.bank().frames.by_size["96"].angles)
