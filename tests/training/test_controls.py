import pytest

from qpeft.adapters.attach import attach
from qpeft.adapters.method_table import METHODS
from qpeft.errors import ConfigError
from qpeft.generators.spec import QPASpec
from qpeft.training.controls import check_sources, with_controls
from qpeft.training.models import load_config, skeleton
from qpeft.training.vary import plan

SOURCES = "source=circuit,frozen,mlp,free,none"
SIZE = 4 * (2048 + 128)  # numbers of a rank-4 LoRA of the embedded model's head


def build(combination):
    config = combination.config
    return attach(
        skeleton(load_config(config.model.model)),
        METHODS[config.adapter.method].peft_config(config.settings, "CAUSAL_LM"),
    )


def asked(*vary, **flags):
    return plan(vary, 1, {}, {"model": "embedded", "data": "embedded", **flags})


def planned(*vary, **flags):
    """Label to chunk size, hidden widths as they were changed, and count."""
    found = with_controls(asked(*vary, **flags), build)
    sizes = {}
    for combination in found.plan.combinations:
        model = build(combination)
        (spec,) = model.base_model.bank().specs
        trained = model.get_nb_trainable_parameters()[0]
        assert trained == spec.num_parameters
        sizes[combination.label] = (spec.chunk_size, list(spec.hidden), trained, combination.fitted)
        assert any(note.startswith(f"  {combination.label}: {trained:,} (") for note in found.notes)
    return sizes, found.notes


def test_controls_have_the_circuits_sizes_and_its_count_once_more():
    sizes, notes = planned(SOURCES, chunk_size=128)
    network = (7 + 1) * 16 + 16 + 17 * 128  # 7 qubits: 68 chunks
    assert sizes == {
        "circuit": (128, [16], network + 7 * 8, None),
        "frozen": (128, [16], network, None),
        "frozen, equal budget": (131, [16], network + 3 * 17, "chunk size 131"),
        "mlp": (128, [16], network + 7 * 6 + 6 + 6 + 1, None),
        "free": (128, [16], network + 68, None),
        "free, equal budget": (127, [16], network - 17 + 69, "chunk size 127"),
        "none": (128, [16], network - 16, None),
        "none, equal budget": (132, [16], network - 16 + 4 * 17, "chunk size 132"),
    }
    assert "  mlp: no run of its own at equal budget, since one more weight a chunk is too large" in notes


def test_a_network_is_made_narrower_only_where_no_chunk_size_will_do():
    sizes, _ = planned("source=circuit,free", chunk_size=16)
    assert sizes["circuit"][2] == 544 and sizes["free"][2] == 544 - 80 + 544  # an angle 8 a qubit; a number a chunk

    def counts(width):
        return {n: QPASpec(SIZE, n, source="free", hidden=(width,)).num_parameters for n in range(1, SIZE + 1)}

    assert min(counts(6).values()) > 544
    largest = max(n for n, count in counts(5).items() if count <= 544)
    assert sizes["free, equal budget"] == (largest, [5], counts(5)[largest], f"chunk size {largest}, hidden 5")


@pytest.mark.parametrize("given", [{"budget": 1200}, {}, {"chunk_size": 57}])
def test_a_budget_decides_the_circuits_sizes_which_the_controls_take(given):
    sizes, _ = planned("source=none,circuit", **given)
    chunk_size = sizes["circuit"][0]
    assert sizes["none"][0] == chunk_size
    none, own = sizes["none, equal budget"], sizes["circuit"][2]
    assert none[2] <= own < none[2] + 17  # one more weight a chunk is 17 numbers
    if "budget" in given:
        assert own <= 1200 < own + 17
    elif not given:
        assert own <= (2048 + 128) // 2 < own + 17  # half of LoRA of rank 1


def test_every_choice_of_other_settings_has_a_circuit_of_its_own():
    sizes, _ = planned("method=qpa,qpa-dora", "source=circuit,none", "chunk_size=64,128")
    assert list(sizes)[:6] == [
        "qpa, circuit, 64", "qpa, circuit, 128", "qpa, none, 64", "qpa, none, 64, equal budget", "qpa, none, 128",
        "qpa, none, 128, equal budget",
    ]  # fmt: skip
    assert len(sizes) == 12
    for label in ("qpa, none, 64", "qpa-dora, none, 128"):
        own, fitted = sizes[label.replace("none", "circuit")], sizes[f"{label}, equal budget"]
        assert sizes[label][0] == own[0] and 0 <= own[2] - fitted[2] < 17


def test_an_engine_that_is_not_installed_here_does_not_matter_for_sizes():
    found = with_controls(asked("engine=exact,torchquantum", "source=circuit,frozen", chunk_size=64), build)
    counts = dict(note.strip().split(": ") for note in found.notes[1:])
    assert len(counts) == 6
    for run in ("circuit", "frozen", "frozen, equal budget"):
        source, *rest = run.split(", ")
        exact, other = (", ".join([engine, source, *rest]) for engine in ("exact", "torchquantum"))
        assert counts[exact] == counts[other]
    assert [c.config.generator.engine for c in found.plan.combinations] == ["exact"] * 3 + ["torchquantum"] * 3


def test_generators_of_several_layers_share_a_budget():
    found = with_controls(asked(SOURCES, targets=["c_attn"], scope="layer", budget=4000), build)
    count = {c.label: build(c).get_nb_trainable_parameters()[0] for c in found.plan.combinations}
    for label in ("frozen", "mlp", "none"):
        assert 0 <= count["circuit"] - count[f"{label}, equal budget"] < 4 * 17  # four layers
    with pytest.raises(ConfigError, match=r"chunks of \d to \d weights, and the controls .* give --chunk-size"):
        with_controls(asked(SOURCES, targets=["c_attn", "c_proj"], scope="layer"), build)


@pytest.mark.parametrize(("sources", "lacking"), [("free,none", "no circuit"), ("circuit", "no control")])
def test_without_a_circuit_or_a_control_nothing_is_changed_and_that_is_said(sources, lacking):
    one = asked(f"source={sources}", budget=2000)
    found = with_controls(one, build)
    assert found.plan == one
    (note,) = found.notes
    assert note.startswith(f"There is {lacking} among the sources")


def test_a_comparison_of_something_else_is_left_alone():
    one = asked("rank=2,4")
    assert with_controls(one, build).plan is one and with_controls(one, build).notes == []
    check_sources(one)


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        (("source=circuit,frozn",), "unknown source 'frozn'. Did you mean 'frozen'"),
        (("source=circuit,bits",), r"unknown source 'bits'. Available: circuit, frozen, free, mlp, none"),
        (("source=circuit,none", "method=qpa,lora"), "the method lora has no circuit .* take one of qpa, qpa-dora"),
        (("source=circuit,none", "method=quantum-peft"), "the method quantum-peft has no circuit"),
    ],
)
def test_unknown_controls_and_methods_without_a_source_are_refused(vary, message):
    with pytest.raises(ConfigError, match=message):
        check_sources(asked(*vary))


def test_a_head_that_trains_is_counted_but_is_no_part_of_the_budget():
    """A layer that trains in full adds as much to the circuit as to its controls."""

    def with_head(combination):
        model = build(combination)
        model.base_model.model.transformer.wte.weight.requires_grad_(True)
        return model

    one = asked("source=circuit,frozen", chunk_size=128)
    plain, headed = (with_controls(one, how) for how in (build, with_head))
    assert headed.plan == plain.plan
    assert "  circuit: 2,376 (" in "\n".join(plain.notes)
    assert f"  circuit: {2376 + 2048 * 128:,} (" in "\n".join(headed.notes)
