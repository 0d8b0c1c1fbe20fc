import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from qpeft import gradient_variance
from qpeft.engines import get_engine
from qpeft.errors import ConfigError, RunError
from qpeft.qcircuits import ANSATZE, CircuitBuilder, StatevectorEngine, ansatz
from qpeft.training.trainability import gradients as gradients_module
from qpeft.training.trainability.gradients import OBSERVABLES, cost_gradients, draw_angles
from qpeft.training.trainability.points import plan_points
from qpeft.training.trainability.references import (
    is_one_product_layer,
    one_layer_global,
    shots_of_two_design,
    two_design,
)
from qpeft.training.trainability.statistics import Bootstrap, fit_decay, layers_of, spread
from qpeft.training.trainability.table import VarianceTable


def haar(dim, is_real, number, rng):
    """Random orthogonal or unitary matrices: the phases of R's diagonal make QR's Q uniform (Mezzadri 2007)."""
    random = rng.normal(size=(number, dim, dim)) + (0 if is_real else 1j * rng.normal(size=(number, dim, dim)))
    q, r = np.linalg.qr(random)
    diagonal = np.diagonal(r, axis1=1, axis2=2)
    return q * (diagonal / abs(diagonal))[:, None, :]


@pytest.mark.parametrize("is_real", [True, False])
@pytest.mark.parametrize("observable", ["global", "local"])
def test_the_2_design_reference_is_that_of_haar_random_matrices(observable, is_real):
    num_qubits, number = 2, 40_000
    rng, dim = np.random.default_rng(0), 2**num_qubits
    w, v = haar(dim, is_real, number, rng)[:, :, 0], haar(dim, is_real, number, rng)
    signs = np.eye(dim)[0] if observable == "global" else np.repeat([1.0, -1.0], dim // 2)
    generator = np.kron([[0, -1j], [1j, 0]], np.eye(dim // 2))  # Y on the first qubit: real circuits have no other
    moved = (v @ w[:, :, None])[:, :, 0], (v @ (generator @ w.T).T[:, :, None])[:, :, 0]
    derivative = (moved[0].conj() * signs * -0.5j * moved[1]).sum(1).real * 2
    assert derivative.mean() == pytest.approx(0, abs=0.01)
    assert derivative.var() == pytest.approx(two_design(observable, num_qubits, is_real), rel=0.04)


@pytest.mark.parametrize("name", ["ry_cnot", "simplified_two_design", "rxrz_cnot", "ryrz_cnot"])
@pytest.mark.parametrize("observable", ["global", "local"])
def test_the_middle_of_a_deep_circuit_comes_to_the_2_design(name, observable):
    (row,) = gradient_variance(name, [3], [12], [observable], initialisations=3000)
    middle = row.spread.layers[len(row.spread.layers) // 3 : -len(row.spread.layers) // 3]
    assert np.mean([band.variance for band in middle]) == pytest.approx(row.two_design, rel=0.06)


def test_commuting_rotations_never_come_to_the_2_design():
    (row,) = gradient_variance("rx_cnot", [4], [24], ["local"], initialisations=400)
    assert row.spread.all.high < 0.7 * row.two_design


@pytest.mark.parametrize("name", ["ry_cnot", "rx_cnot"])
def test_one_layer_has_the_derived_variance_at_every_angle(name):
    """Averages over an equidistant grid of three or more angles are exact for squares of such trigonometric costs."""
    num_qubits, grid = 3, torch.arange(5, dtype=torch.float64) * 2 * torch.pi / 5
    circuit = ansatz(name, num_qubits, 1)
    angles = torch.cartesian_prod(*[grid] * num_qubits)
    found = cost_gradients(StatevectorEngine(), circuit, angles, OBSERVABLES["global"])
    torch.testing.assert_close(found.mean(0), torch.zeros(3, dtype=torch.float64))
    expected = torch.full((3,), one_layer_global(num_qubits), dtype=torch.float64)
    torch.testing.assert_close(found.square().mean(0), expected)
    (row,) = gradient_variance(name, [num_qubits], [1], ["global"], initialisations=2)
    assert row.one_layer == (1 / 8) * (3 / 8) ** 2


def test_the_one_layer_reference_is_drawn_only_where_it_holds():
    assert not is_one_product_layer(ansatz("ry_cnot", 3, 2)) and not is_one_product_layer(ansatz("rxrz_cnot", 3, 1))
    rows = gradient_variance("ry_cnot", [2], [1, 2], initialisations=2)
    assert [(row.reps, row.observable) for row in rows if row.one_layer is not None] == [(1, "global")]


def test_gradients_are_those_of_the_observables_matrix():
    circuit = ansatz("rxrz_cnot", 2, 2)
    angles = draw_angles(circuit, 3, seed=5)
    for name, matrix in (("global", np.diag([1, 0, 0, 0])), ("local", np.diag([1, 1, -1, -1]))):
        found = cost_gradients(StatevectorEngine(), circuit, angles, OBSERVABLES[name])
        for place in range(circuit.num_parameters):
            step = 1e-5 * torch.eye(circuit.num_parameters, dtype=torch.float64)[place]
            states = [StatevectorEngine().state(circuit, angles + sign * step).numpy() for sign in (1, -1)]
            up, down = (np.einsum("bi,ij,bj->b", state.conj(), matrix, state).real for state in states)
            np.testing.assert_allclose(found[:, place], (up - down) / 2e-5, atol=1e-9)


def test_batches_cut_by_memory_change_nothing(monkeypatch):
    circuit = ansatz("ry_cnot", 3, 2)
    angles = draw_angles(circuit, 7, seed=0)
    whole = cost_gradients(StatevectorEngine(), circuit, angles, OBSERVABLES["local"])
    monkeypatch.setattr(gradients_module, "BATCH_BYTES", 1)
    torch.testing.assert_close(cost_gradients(StatevectorEngine(), circuit, angles, OBSERVABLES["local"]), whole)


def test_angles_are_uniform_over_a_full_turn_and_repeat():
    circuit = ansatz("ry_cnot", 4, 4)
    angles = draw_angles(circuit, 2000, seed=1)
    assert angles.min() > -torch.pi and angles.max() < torch.pi
    assert angles.var().item() == pytest.approx(np.pi**2 / 3, rel=0.02)
    assert torch.equal(angles, draw_angles(circuit, 2000, seed=1))
    assert not torch.equal(angles, draw_angles(circuit, 2000, seed=2))


def test_variances_are_sample_variances_of_angles_of_layers_and_of_all():
    values = np.array([[0.0, 1.0, 10.0], [2.0, 1.0, 20.0], [4.0, 4.0, 30.0]])  # sample variances 4, 3, 100
    found = spread(values, [0, 0, 1], Bootstrap(resamples=10), seed=0)
    assert found.parameters == pytest.approx((4.0, 3.0, 100.0))
    assert [band.variance for band in found.layers] == pytest.approx([3.5, 100.0])
    assert found.all.variance == pytest.approx(107 / 3)


def test_bands_hold_the_true_variance_as_often_as_they_say():
    rng = np.random.default_rng(0)
    bands = [
        spread(rng.normal(scale=2.0, size=(80, 4)), [0] * 4, Bootstrap(0.9, 300), seed=trial).all
        for trial in range(200)
    ]  # fmt: skip
    assert np.mean([band.low < 4.0 < band.high for band in bands]) == pytest.approx(0.88, abs=0.06)
    assert np.mean([band.high - band.low for band in bands]) == pytest.approx(2 * 1.645 * 4 * (2 / 320) ** 0.5, rel=0.1)


def test_layers_end_where_a_qubit_turns_again():
    assert layers_of(ansatz("rxrz_cnot", 2, 2)) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert layers_of(ansatz("simplified_two_design", 3, 1)) == [0, 0, 0, 1, 1, 2, 2]
    first = CircuitBuilder(2).ry(0).rzz(0, 1)
    angle = first.build().operations[0].angle
    shared = CircuitBuilder(2).ry(0).ry(0, angle=angle).ry(0).build()
    assert layers_of(first.build()) == [0, 1] and layers_of(shared) == [0, 1]


def test_the_decay_is_the_least_squares_slope_with_its_standard_error():
    logs = [-1.0, -2.5, -2.5, -4.0]
    found = fit_decay([1, 2, 3, 4], [2**value for value in logs])
    (slope, _), covariance = np.polyfit([1, 2, 3, 4], logs, 1, cov="unscaled")
    rest = np.array(logs) - np.polyval(np.polyfit([1, 2, 3, 4], logs, 1), [1, 2, 3, 4])
    assert found.rate == pytest.approx(slope)
    assert found.error == pytest.approx(np.sqrt(covariance[0, 0] * (rest**2).sum() / 2))
    assert fit_decay([2, 3], [0.5, 0.25]).error is None
    assert fit_decay([2, 3], [0.5, 0.0]) is None and fit_decay([2], [0.5]) is None


def test_decays_take_an_ansatz_and_depth_each():
    rows = gradient_variance(["ry_cnot", "rx_cnot"], [2, 3, 4], [1], initialisations=3)
    exact = [replace(row, spread=replace(row.spread, all=replace(row.spread.all, variance=4.0**-row.qubits)))
             for row in rows]  # fmt: skip
    found = VarianceTable(tuple(exact)).decays()
    assert [(d.ansatz, d.observable) for d in found] == [(a, o) for a in ("ry_cnot", "rx_cnot") for o in OBSERVABLES]
    assert all(d.decay.rate == pytest.approx(-2) and d.decay.points == 3 for d in found)


def test_a_circuit_of_ones_own_is_repeated_with_new_angles():
    own = CircuitBuilder(1).ry(0).build()
    rows = gradient_variance(own, reps=[1, 3], observables=["local"], initialisations=400)
    assert [(row.ansatz, row.qubits, len(row.spread.parameters)) for row in rows] == [
        ("circuit", 1, 1), ("circuit", 1, 3),
    ]  # fmt: skip
    for row in rows:  # L = cos of the sum of the angles, whatever their number
        assert row.variance == pytest.approx(0.5, rel=0.1)
    (named,) = gradient_variance({"mine": lambda n, r: ansatz("ry_cnot", n, r)}, [2], [1], ["local"],
                                 initialisations=400)  # fmt: skip
    assert named.ansatz == "mine"
    assert named.spread.parameters == pytest.approx((0.5, 0.0), rel=0.1)  # Z_0 = cos(theta_0) alone


def test_every_registered_ansatz_can_be_studied():
    rows = gradient_variance(list(ANSATZE), [2], [1], initialisations=2)
    assert {row.ansatz for row in rows} == set(ANSATZE)


def test_sampled_gradients_vary_by_the_shots_too():
    """A shifted probability p of s shots has variance p (1 - p) / s, and the rule halves the difference of two."""
    exact, sampled = gradient_variance("ry_cnot", [2], [1], ["global"], ["exact", "exact:8"], initialisations=4000)
    of_one = (1 / 2) ** 2 - (3 / 8) ** 2  # E p - E p^2 of p = cos^2(a / 2) cos^2(b / 2), at shifted angles as at any
    noise = 2 * of_one / 8 / 4
    assert sampled.variance - exact.variance == pytest.approx(noise, rel=0.12)
    assert sampled.one_layer == exact.one_layer + noise


@pytest.mark.parametrize(("name", "is_real"), [("ry_cnot", True), ("ryrz_cnot", False)])
@pytest.mark.parametrize("observable", ["global", "local"])
def test_shots_add_to_the_2_design_what_random_states_give(name, is_real, observable):
    exact, sampled = gradient_variance(name, [3], [8], [observable], ["exact", "exact:10"], initialisations=1500)
    assert sampled.two_design == exact.two_design + shots_of_two_design(observable, 3, is_real, shots=10)
    middle = slice(len(exact.spread.layers) // 3, -len(exact.spread.layers) // 3)
    added = [np.mean([band.variance for band in row.spread.layers[middle]]) for row in (exact, sampled)]
    assert added[1] - added[0] == pytest.approx(sampled.two_design - exact.two_design, rel=0.1)


def test_nothing_is_derived_under_noise():
    (row,) = gradient_variance(
        "ry_cnot", [2], [1], engines=["pauli@ibm_torino"], observables=["global"], initialisations=2
    )
    assert row.two_design is None and row.one_layer is None


def test_noise_shrinks_the_variance():
    pytest.importorskip("qiskit_ibm_runtime")
    exact, noisy = gradient_variance(
        "ry_cnot", [2], [2], ["local"], ["exact", "pauli@ibm_torino"], initialisations=30
    )  # fmt: skip
    assert 0.7 * exact.variance < noisy.variance < exact.variance


def test_points_share_their_angles_and_repeat():
    one = gradient_variance("ry_cnot", [3], [2], ["global"], initialisations=5)
    two = gradient_variance(["rx_cnot", "ry_cnot"], [2, 3], [2], initialisations=5)
    assert one[0] in two


def test_raw_derivatives_are_kept_and_not_run_again(tmp_path, monkeypatch):
    first = gradient_variance("ry_cnot", [2], [1, 2], ["local"], initialisations=4, folder=tmp_path)
    table = pq.read_table(tmp_path / "ry_cnot-n2-r2-local-exact.parquet")
    assert table.column_names == ["theta_0", "theta_1", "theta_2", "theta_3"] and table.num_rows == 4
    assert first[1].spread.parameters == pytest.approx([np.var(c.to_numpy(), ddof=1) for c in table.columns])
    assert json.loads(table.schema.metadata[b"qpeft"])["initialisations"] == 4
    ran = []
    monkeypatch.setattr(StatevectorEngine, "probabilities", lambda *a: ran.append(a) or pytest.fail("ran again"))
    assert gradient_variance("ry_cnot", [2], [1, 2], ["local"], initialisations=4, folder=tmp_path) == first
    assert not ran


def test_raw_derivatives_of_another_experiment_are_refused(tmp_path):
    given = {"qubits": [2], "reps": [1], "observables": ["local"], "folder": tmp_path}
    gradient_variance("ry_cnot", initialisations=4, **given)
    with pytest.raises(RunError, match="another experiment's: initialisations was 4, now 5"):
        gradient_variance("ry_cnot", initialisations=5, **given)
    with pytest.raises(RunError, match="circuit was"):
        gradient_variance({"ry_cnot": lambda n, r: ansatz("rx_cnot", n, r)}, initialisations=4, **given)
    file = tmp_path / "ry_cnot-n2-r1-local-exact.parquet"
    whole = file.read_bytes()
    for damaged in (b"PAR1 cut", whole[:-60] + b"\xff" * 52 + whole[-8:], whole[:4] + b"\xff" * 60 + whole[64:]):
        file.write_bytes(damaged)
        with pytest.raises(RunError, match="is damaged"):
            gradient_variance("ry_cnot", initialisations=4, **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"initialisations": 1}, "initialisations is 1; a variance needs at least 2"),
        ({"initialisations": 2.5}, "initialisations is 2.5"),
        ({"initialisations": 10**10}, "10000000000 initialisations of 2 angles.*GiB"),
        ({"bootstrap": Bootstrap(0.9, 10**12)}, "resampled 1000000000000 times.*Give fewer"),
        ({"observables": ["z1"]}, "unknown observable 'z1'.*global, local"),
        ({"circuits": "ry_cnott"}, "unknown ansatz 'ry_cnott'.*ry_cnot"),
        ({"circuits": CircuitBuilder(2).cx(0, 1).build()}, "no trainable angles"),
        ({"circuits": {"mine": 3}}, "'mine' is 3; give a Circuit"),
        ({"circuits": lambda n, r: "no circuit"}, "made 'no circuit' of 2 qubits"),
        ({"circuits": []}, "there is no circuit"),
        ({"qubits": [0]}, "qubits is 0"),
        ({"qubits": []}, "qubits is"),
        ({"reps": [True]}, "reps is True"),
        ({"qubits": [2, 2]}, "asked for twice"),
        ({"qubits": [60]}, "60 qubits do not fit.*GiB"),
        ({"qubits": [10_000_000]}, r"10000000 qubits do not fit.*2\*\*\d+ GiB"),
        ({"engines": ["exakt"]}, "unknown engine 'exakt'"),
        ({"engines": ["pauli@ibm_torino"], "qubits": [9]}, "9 qubits under noise are too many.*2 to 8"),
        ({"engines": ["aer@ibm_torino:100"], "qubits": [9]}, "9 qubits under noise are too many.*2 to 8"),
        ({"circuits": [CircuitBuilder(2).ry(0).build()]}, "has a Circuit in it; give circuits of your own with names"),
        (
            {"circuits": {"a b": ansatz("ry_cnot", 2, 1), "a_b": ansatz("rx_cnot", 2, 1)}},
            "names that differ in letters",
        ),
    ],
)
def test_bad_input_says_what_is_allowed(given, message):
    with pytest.raises(ConfigError, match=message):
        gradient_variance(**{"circuits": "ry_cnot", "qubits": [2], "reps": [1], "initialisations": 4, **given})


def test_a_confidence_is_a_share():
    with pytest.raises(ConfigError, match=r"confidence is 1\.5"):
        Bootstrap(1.5, 10)


def test_an_idle_depth_is_refused():
    with pytest.raises(ConfigError, match="reps is 0"):
        plan_points("ry_cnot", [2], [0], ["local"], ["exact"])


def test_engines_with_shots_estimate_by_parameter_shift():
    (point,) = plan_points("ry_cnot", [2], [1], ["local"], ["exact:16"])
    assert point.new_engine(0).describe()["diff_method"] == "parameter-shift"
    assert point.new_engine(0).describe()["seed"] == point.new_engine(0).describe()["seed"]
    assert get_engine("exact:16").describe()["diff_method"] == "straight-through"  # the default, which hides the shots
