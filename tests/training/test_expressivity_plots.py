import math

import pytest
from matplotlib.colors import to_hex

from qpeft.circuit_analysis import Row, Settings
from qpeft.training.expressivity_plots import entangling_plot, expressibility_plot
from qpeft.training.plots import COLOURS

SETTINGS = Settings(samples=1000, bins=2, seed=0)


def row(ansatz, qubits, reps, found, real=None, entangling=0.5):
    """Errors are a tenth of what was found."""
    real_error = None if real is None else real / 10
    return Row(ansatz, qubits, reps, 4, 4, found, found / 10, 0.0, real, real_error, entangling, entangling / 10)


ROWS = [
    row("turns", 2, 4, 0.2, 0.1, 0.6), row("turns", 2, 1, 0.8, 0.4, 0.2), row("turns", 3, 1, 0.9, 0.5, 0.3),
    row("twists", 2, 1, 0.3, entangling=0.4), row("twists", 2, 4, 0.05, entangling=0.7),
    row("twists", 3, 1, 0.35, entangling=0.45),
]  # fmt: skip


def drawn(axes):
    """Of every line with error bars: its points, the lower ends of the bars, and its look."""
    found = []
    for container in axes.containers:
        line, _, (bars,) = container.lines
        lows = [segment[0][1] for segment in bars.get_segments()]
        found.append((line.get_xydata().tolist(), lows, (line.get_color(), line.get_marker(), line.get_linestyle())))
    return found


def levels(axes):
    """Grey and line style to height of every horizontal line."""
    return {
        (to_hex(line.get_color()), line.get_linestyle()): line.get_ydata()[0]
        for line in axes.lines if list(line.get_xdata()) == [0, 1] and line.get_transform() != axes.transData
    }  # fmt: skip


COMPLEX, REAL = to_hex("0.3"), to_hex("0.65")


@pytest.mark.parametrize(
    ("plot", "heights"),
    [
        (lambda: expressibility_plot([], ROWS, SETTINGS), [[0.8, 0.2], [0.9], [0.3, 0.05], [0.35]]),
        (lambda: entangling_plot([], ROWS), [[0.2, 0.6], [0.3], [0.4, 0.7], [0.45]]),
    ],
)
def test_a_line_an_ansatz_and_size_with_bars_of_one_standard_error(plot, heights):
    figure = plot()
    (axes,) = figure.axes
    for (points, lows, _), ys in zip(drawn(axes), heights, strict=True):
        assert points == [[reps, y] for reps, y in zip((1, 4), ys, strict=False)]
        assert lows == pytest.approx([0.9 * y for y in ys])
    assert [look for *_, look in drawn(axes)] == [
        (COLOURS[place], marker, style) for place, marker in enumerate("os") for style in ("-", "--")
    ]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "4"] and axes.get_xscale() == "log"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "turns", "twists", "random complex states", "random real states", "2 qubits", "3 qubits",
    ]  # fmt: skip


def test_expressibility_is_held_against_what_as_many_random_states_show():
    """On a qubit a complex fidelity is uniform; a real one, cos^2 of a uniform angle, is below 1/4 in 1/3 of all cases.

    Both fill four bins, so finite samples add 3 / 2000.
    """
    rows = [row("turns", 1, 1, 0.2, 0.1)]
    figure = expressibility_plot([], rows, Settings(samples=1000, bins=4, seed=0))
    divergence = (2 * math.log(4 / 3) + math.log(2 / 3)) / 3  # masses 1/3, 1/6, 1/6, 1/3 from 1/4 each
    assert levels(figure.axes[0]) == pytest.approx({(COMPLEX, "-"): 0.0015, (REAL, "-"): divergence + 0.0015})
    assert figure.axes[0].get_yscale() == "log" and "nats" in figure.axes[0].get_ylabel()


def test_entanglement_is_held_against_that_of_random_states():
    figure = entangling_plot([], ROWS)
    assert levels(figure.axes[0]) == pytest.approx(
        {(COMPLEX, "-"): 2 / 5, (COMPLEX, "--"): 6 / 9, (REAL, "-"): 2 / 6, (REAL, "--"): 6 / 10}
    )
    assert figure.axes[0].get_ylim() == (-0.02, 1.02)


def test_real_states_stand_beside_real_circuits_only():
    rows = ROWS[3:]
    for figure in (expressibility_plot([], rows, SETTINGS), entangling_plot([], rows)):
        assert [*levels(figure.axes[0])] == [(COMPLEX, "-"), (COMPLEX, "--")]
        assert "random real states" not in [text.get_text() for text in figure.legends[0].get_texts()]


def test_no_layers_stand_on_a_linear_scale():
    (axes,) = entangling_plot([], [row("fixed", 2, 0, 0.5), row("fixed", 2, 2, 0.4)]).axes
    assert axes.get_xscale() == "linear" and list(axes.get_xticks()) == [0, 2]


def test_plots_are_saved(tmp_path):
    expressibility_plot([tmp_path / "plot.png"], ROWS, SETTINGS)
    entangling_plot([tmp_path / "plot.svg"], ROWS)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "plot.svg").read_text(encoding="utf8")
