from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qpeft.engines import ENGINES, GRAMMAR, EngineEntry, EngineName, check_engine, get_engine, register_engine
from qpeft.errors import ConfigError, EngineError
from qpeft.extras import MissingExtraError
from qpeft.qcircuits import Engine, SampledEngine, Shots, StatevectorEngine, Surrogate, ansatz

EXACT_HERE = [
    name for name, entry in ENGINES.items() if entry.diff_methods and not entry.needs_device and entry.is_installed
]
ON_DEVICES = ["pauli@ibm_torino", "aer@ibm_fez"]
SAMPLED_HERE = [
    name for name, entry in ENGINES.items()
    if entry.sampled_diff_methods and not entry.needs_device and entry.is_installed
]  # fmt: skip


@pytest.fixture
def own_registry(monkeypatch):
    monkeypatch.setattr(ENGINES, "_entries", dict(ENGINES._entries))


@pytest.mark.parametrize("text", [*EXACT_HERE, *ON_DEVICES, *(f"{name}:40x" for name in (*SAMPLED_HERE, *ON_DEVICES))])
def test_every_engine_answers_the_same_question(text):
    engine = get_engine(text)
    assert isinstance(engine, Engine)
    circuit = ansatz("ry_cnot", 3, 2)
    angles = torch.linspace(-1, 1, circuit.num_parameters, requires_grad=True)
    probabilities = engine.probabilities(circuit, angles)
    assert probabilities.shape == (8,)
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-5)
    (gradient,) = torch.autograd.grad(probabilities[0], angles)
    assert gradient.shape == angles.shape


@pytest.mark.parametrize("entry", ENGINES.values(), ids=ENGINES)
def test_every_row_says_what_it_is(entry):
    assert entry.summary
    assert entry.diff_methods or entry.sampled_diff_methods
    assert bool(entry.packages) == bool(entry.install)
    assert entry.device or not entry.needs_device


def test_exact_is_the_statevector():
    assert get_engine("exact") == StatevectorEngine()
    assert get_engine("exact", "backprop") == StatevectorEngine("backprop")


def test_shots_make_it_sample():
    engine = get_engine("exact:10x", "parameter-shift", gradient_shots=50, seed=7)
    assert isinstance(engine, SampledEngine)
    assert (engine.shots, engine.gradient_shots, engine.draws.seed) == (Shots(10, True), Shots(50), 7)
    assert get_engine("exact:4096").diff_method == "straight-through"


def test_an_unknown_engine_names_the_nearest():
    for text in ("exat", "exat:10x", "exat@there"):
        with pytest.raises(ConfigError, match=r"unknown engine 'exat'. Did you mean 'exact'\?"):
            get_engine(text)


@given(
    st.sampled_from(EXACT_HERE), st.none() | st.from_regex(r"[a-z_.0-9]{1,12}", fullmatch=True),
    st.none() | st.builds(Shots, st.integers(1, 10**6), st.booleans()),
)  # fmt: skip
def test_a_printed_name_is_read_back(name, device, shots):
    entry = ENGINES[name]
    given = EngineName(
        name, device if entry.device else None, shots if entry.sampled_diff_methods else None
    )  # fmt: skip
    assert EngineName.parse(str(given)) == given
    assert EngineName.parse(f"  {given} ") == given


@pytest.mark.parametrize(
    "text", ["", ":", "@", ":10", "@fez", "exact@", "exact:10:3", "exact:10x@fez", "a@b@c", "exact@:4"]
)
def test_a_string_outside_the_grammar_shows_the_grammar(text):
    with pytest.raises(ConfigError) as caught:
        EngineName.parse(text)
    names = "unknown engine 'a'. Did you mean 'aer'?" if text == "a@b@c" else "Engines: exact"
    assert f"engine {text!r} does not parse; expected {GRAMMAR}. {names}" in str(caught.value)


@pytest.mark.parametrize("shots", ["10y", "x", "", "1.5", "1e3", "ten", "10 x"])
def test_shots_that_do_not_parse_show_what_does(shots):
    with pytest.raises(
        ConfigError, match=r"shots are .*; expected a number of shots \(4096\), or shots for each basis"
    ):
        get_engine(f"exact:{shots}")


@pytest.mark.parametrize("shots", ["0", "-1", "0x", "-10x"])
def test_fewer_than_one_shot_is_refused(shots):
    with pytest.raises(ConfigError, match=f"shots are {shots}; they must be a whole number from 1"):
        get_engine(f"exact:{shots}")


def test_a_device_where_none_is_taken_is_refused():
    with pytest.raises(ConfigError, match=r"engine 'exact@ibm_fez:10x': 'exact' takes no @DEVICE"):
        get_engine("exact@ibm_fez:10x")


@pytest.mark.parametrize("method", ["adjoint", "backprop"])
def test_the_methods_of_a_state_are_refused_with_shots(method):
    with pytest.raises(ConfigError, match=rf"diff_method '{method}' is not available for engine 'exact:10x', since "
                       "measured frequencies have no state to differentiate; available: straight-through"):  # fmt: skip
        get_engine("exact:10x", method)


@pytest.mark.parametrize("method", ["straight-through", "parameter-shift"])
def test_the_methods_of_samples_are_refused_without_shots(method):
    told = rf"diff_method '{method}' is not available for engine 'exact', since nothing is sampled without shots; avail"
    with pytest.raises(ConfigError, match=told):
        get_engine("exact", method)


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown diff_method of engine 'exact' 'adjont'. Did you mean 'adjoint'\?"):
        get_engine("exact", "adjont")


@pytest.mark.parametrize(("text", "method"), [("exact", None), ("exact", "backprop"), ("exact:10x", None)])
def test_gradient_shots_without_a_sampled_gradient_are_refused(text, method):
    with pytest.raises(ConfigError, match=r"gradient_shots is 100, .* samples no gradient; give the engine shots"):
        get_engine(text, method, gradient_shots=100)


@pytest.mark.parametrize("shots", [0, -5, "10y"])
def test_gradient_shots_are_read_as_shots(shots):
    with pytest.raises(ConfigError, match="shots are"):
        get_engine("exact:10x", "parameter-shift", gradient_shots=shots)


@pytest.mark.parametrize("text", ["exact", "exact:10x"])
@pytest.mark.parametrize("seed", [-1, 2**64, 0.5])
def test_a_seed_that_cannot_be_is_refused(text, seed):
    with pytest.raises(ConfigError, match=r"seed is .*; it must be a whole number of at least 0"):
        check_engine(text, seed=seed)


def test_columns_of_a_sampled_engine_are_refused():
    circuit = ansatz("ry_cnot", 2, 1)
    with pytest.raises(EngineError, match="SampledEngine has no columns"):
        get_engine("exact:10x").columns(circuit, torch.zeros(2), 1)
    assert get_engine("exact").columns(circuit, torch.zeros(2), 1).shape == (4, 1)


def refuses(*_):
    raise AssertionError("made")


MISSING = EngineEntry(
    refuses, "needs what is not there", ("spsa",), packages=("no_such_package",), install="pip install no-such-package"
)


def test_a_missing_package_is_named_with_its_command(own_registry):
    register_engine("missing", MISSING)
    assert not MISSING.is_installed
    with pytest.raises(MissingExtraError, match="engine 'missing' needs no_such_package: pip install no-such-package"):
        get_engine("missing")
    assert check_engine("missing")[0] == EngineName("missing")  # settings are read where it is not installed


def test_what_a_row_requires_is_required(own_registry):
    register_engine("device", replace(MISSING, diff_methods=(), sampled_diff_methods=("spsa",), device="a device",
                                      needs_device=True))  # fmt: skip
    with pytest.raises(ConfigError, match=r"engine 'device:10': give a device as device@DEVICE"):
        check_engine("device:10")
    with pytest.raises(ConfigError, match=r"engine 'device@here' only measures; give it shots: device@here:4096 or "):
        check_engine("device@here")
    register_engine("plain", replace(MISSING, sampled_diff_methods=()))
    with pytest.raises(ConfigError, match=r"engine 'plain:10x': 'plain' takes no :SHOTS"):
        check_engine("plain:10x")


@pytest.mark.parametrize("name", ["exact", *(name for name in EXACT_HERE if name != "exact")])
def test_a_taken_name_is_refused(own_registry, name):
    with pytest.raises(ConfigError, match=f"engine '{name}' is already registered"):
        register_engine(name, MISSING)


@pytest.mark.parametrize("name", ["a@b", "a:b", "a b", "", "\ta"])
def test_a_name_outside_the_grammar_is_refused(own_registry, name):
    with pytest.raises(ConfigError, match="an engine's name"):
        register_engine(name, MISSING)


@pytest.mark.skipif("aer" not in EXACT_HERE, reason="qiskit-aer is not installed")
def test_straight_through_aer_is_a_surrogate():
    assert isinstance(get_engine("aer:10x", "straight-through"), Surrogate)


@pytest.mark.parametrize("shots", ["", ":100"])
def test_aer_on_a_device_takes_the_gradient_of_the_exact_noise(shots):
    straight = get_engine(f"aer@ibm_torino{shots}", "straight-through", seed=3)
    shifted = get_engine(f"aer@ibm_torino{shots}", "parameter-shift", seed=3)
    circuit = ansatz("ry_cnot", 3, 1)
    angles = torch.linspace(-1, 1, 3, dtype=torch.float64, requires_grad=True)
    first, second = straight.probabilities(circuit, angles), shifted.probabilities(circuit, angles)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-12)
    (ours,) = torch.autograd.grad(first[1], angles)
    (exact,) = torch.autograd.grad(get_engine("pauli@ibm_torino").probabilities(circuit, angles)[1], angles)
    torch.testing.assert_close(ours, exact, rtol=0, atol=1e-12)


def test_a_device_that_is_none_is_named_before_work():
    with pytest.raises(ConfigError, match=r"unknown device 'ibm_torono'. Did you mean .*'ibm_torino'"):
        get_engine("pauli@ibm_torono:20x")
    with pytest.raises(ConfigError, match=r"give an IBM device, e.g. ibm_torino as pauli@DEVICE"):
        get_engine("pauli")
