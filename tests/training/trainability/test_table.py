import numpy as np
import pytest

from qpeft import gradient_variance
from qpeft.errors import ConfigError
from qpeft.qcircuits import CircuitBuilder, ansatz
from qpeft.training.trainability.statistics import fit_decay
from qpeft.training.trainability.table import VarianceTable


@pytest.fixture(scope="module")
def table():
    return gradient_variance(["ry_cnot", "rxrz_cnot"], [2, 3, 4], [1, 2], initialisations=6)


def test_it_is_a_sequence_of_rows(table):
    assert len(table) == 2 * 3 * 2 * 2 == len(list(table))
    assert table[0] is table.rows[0] and table[-1] in table
    assert table[:3] == VarianceTable(table.rows[:3])


def test_rows_are_chosen_by_value_or_by_several(table):
    chosen = table.where(observable="local", reps=[1, 2], qubits=(2, 4))
    assert {(row.qubits, row.observable) for row in chosen} == {(2, "local"), (4, "local")}
    assert len(chosen) == 2 * 2 * 2


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"observable": "z"}, "no row has observable 'z'; there are global, local"),
        ({"reps": 3}, "no row has reps 3; there are 1, 2"),
        ({"num_qubits": 2}, "unknown column 'num_qubits'.*qubits"),
        ({"qubits": range(5, 7)}, "no row has qubits"),
    ],
)
def test_what_is_not_there_is_said(table, chosen, message):
    with pytest.raises(ConfigError, match=message):
        table.where(**chosen)


def test_data_frames_hold_what_the_rows_hold(table):
    points, layers, parameters, decays = (
        table.to_pandas(what) for what in ("points", "layers", "parameters", "decays")
    )
    np.testing.assert_array_equal(points["variance"], [row.variance for row in table])
    assert points["two_design"].notna().all() and points["one_layer"].notna().sum() == 3  # ry_cnot, one layer, global
    assert len(parameters) == points["angles"].sum()
    last = parameters.tail(1)
    assert last["variance"].item() == table[-1].spread.parameters[-1]
    assert len(layers) == sum(len(row.spread.layers) for row in table)
    assert (layers["low"] <= layers["high"]).all()
    one = table.where(ansatz="ry_cnot", reps=1, observable="global")
    fit = fit_decay([2, 3, 4], [row.variance for row in one])
    assert decays.iloc[0]["rate"] == pytest.approx(fit.rate) and decays.iloc[0]["points"] == 3
    with pytest.raises(ConfigError, match="unknown table 'angles'"):
        table.to_pandas("angles")


def test_a_decay_of_one_point_has_no_rate():
    frame = gradient_variance("ry_cnot", [2], [1], ["local"], initialisations=3).to_pandas("decays")
    assert frame["rate"].isna().all() and frame["points"].item() == 0


def test_notebooks_show_a_table(table):
    shown = table._repr_html_()
    assert shown.count("<tr") == 1 + len(table) and "two_design" in shown and "NaN" not in shown


def test_a_plot_takes_one_observable_and_engine(table):
    with pytest.raises(ConfigError, match=r'observables global, local.*where\(observable="global"\)'):
        table.plot()
    with pytest.raises(ConfigError, match=r"unknown axis 'depth'.*layer"):
        table.where(observable="global").plot("depth")


def test_layers_are_drawn_at_their_place_in_the_deepest_circuits(table, tmp_path):
    figure = table.where(observable="local").plot("layer", [tmp_path / "layer.svg"])
    assert (tmp_path / "layer.svg").stat().st_size > 1000
    real, _ = figure.axes
    *levels, two, _, four = real.lines
    row = next(iter(table.where(ansatz="ry_cnot", qubits=4, reps=2, observable="local")))
    assert list(four.get_xdata()) == [0, 1]
    assert list(four.get_ydata()) == [band.variance for band in row.spread.layers]
    assert len(levels) == 3 and list(levels[-1].get_ydata()) == [row.two_design] * 2
    assert levels[-1].get_color() == four.get_color() != two.get_color()
    assert "2 layers" in figure.get_supxlabel()


def test_what_is_only_rounding_error_is_no_variance():
    table = gradient_variance("ryrz_cnot", [2, 3], [2], ["local"], initialisations=4)  # Z_0 commutes with the last RZ
    assert [0 < row.spread.layers[-1].variance < 1e-28 for row in table] == [True, True]
    assert [list(line.get_xdata()) for line in table.plot("layer").axes[0].lines[-2:]] == [[0, 1, 2]] * 2
    assert fit_decay([2, 3], [1e-33, 1e-34]) is None


def test_points_that_few_initialisations_decide_are_flagged():
    """The squares of a product of cosines have a relative variance of about (35/18)^N (see `one_layer_global`)."""
    table = gradient_variance("ry_cnot", [2, 10], [1], ["global"], initialisations=200)
    few, many = table.to_pandas()["effective"][::-1]
    assert few < 20 < 60 < many <= 200
    assert [row.spread.has_heavy_tails for row in table] == [False, True]
    figure = table.plot()
    hollow = figure.axes[0].lines[-1]
    assert list(hollow.get_xdata()) == [10] and hollow.get_markerfacecolor() == "white"
    assert figure.legends[0].get_texts()[-1].get_text() == "few samples decide"


def test_references_of_one_point_are_seen_and_what_vanishes_is_said():
    table = gradient_variance(ansatz("ry_cnot", 2, 1), reps=[1], observables=["local"], initialisations=4)
    level = table.plot().axes[0].lines[0]
    assert list(level.get_ydata()) == [table[0].two_design] * 2 and list(level.get_xdata()) == [0, 1]
    idle = gradient_variance(CircuitBuilder(2).rz(0).build(), reps=[1], observables=["local"], initialisations=4)
    assert [text.get_text() for text in idle.plot().axes[0].texts] == ["vanishes"]
