import pytest
import torch

from qpeft.errors import ConfigError
from qpeft.training.distribution_plots import Distribution, distribution_plot
from qpeft.training.plots import COLOURS

EXACT = Distribution("exact", torch.tensor([0.1, 0.6, 0.0, 0.3]))


def titles(figure):
    return [axes.get_title() for axes in figure.axes]


def test_states_come_in_the_order_of_the_exact_probabilities():
    figure = distribution_plot([], EXACT, [Distribution("some", torch.tensor([0.2, 0.3, 0.1, 0.4]))])
    (axes,) = figure.axes
    (points,) = axes.collections
    assert torch.tensor(points.get_offsets()).allclose(torch.tensor([[0, 0.3], [1, 0.4], [2, 0.2], [3, 0.1]]).double())
    (steps,) = axes.patches
    assert steps.get_data().values == pytest.approx([0.6, 0.3, 0.1, 0.0])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["01", "11", "00", "10"]
    assert titles(figure) == ["some, total variation 0.300"]  # (0.3 + 0.1 + 0.1 + 0.1) / 2
    assert figure.get_supylabel() == "probability" and figure.get_supxlabel() == "basis state, the likeliest first"


def test_the_band_is_the_standard_deviation_of_the_frequencies():
    figure = distribution_plot([], EXACT, [Distribution("sampled", EXACT.probabilities, shots=25)])
    _, band = figure.axes[0].patches
    spreads = [0.24**0.5 / 5, 0.21**0.5 / 5, 0.3 / 5, 0.0]
    centres = [0.6, 0.3, 0.1, 0.0]
    data = band.get_data()
    assert data.values == pytest.approx([p + s for p, s in zip(centres, spreads, strict=True)])
    assert data.baseline == pytest.approx([p - s for p, s in zip(centres, spreads, strict=True)])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "exact", "± one standard deviation of the shots", "the panel's engine",
    ]  # fmt: skip


def test_every_engine_has_a_panel_and_the_colour_of_its_place(tmp_path):
    others = [Distribution(name, EXACT.probabilities) for name in "abc"]
    paths = [tmp_path / "some.png", tmp_path / "some.pdf"]
    figure = distribution_plot(paths, EXACT, others)
    assert titles(figure) == [f"{name}, total variation 0.000" for name in "abc"]
    colours = [tuple(axes.collections[0].get_facecolor()[0][:3]) for axes in figure.axes]
    assert colours == [tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)) for colour in COLOURS[1:4]]
    assert all(path.stat().st_size > 1000 for path in paths)


def test_engines_with_and_without_shots_stand_in_any_order():
    others = [Distribution("noise", EXACT.probabilities), Distribution("sampled", EXACT.probabilities, shots=25)]
    for given in (others, others[::-1]):
        (legend,) = distribution_plot([], EXACT, given).legends
        assert [text.get_text() for text in legend.get_texts()] == [
            "exact", "± one standard deviation of the shots", "the panel's engine",
        ]  # fmt: skip


def test_many_states_are_counted_and_a_gradient_is_no_obstacle():
    many = torch.full((32,), 1 / 32, requires_grad=True)
    figure = distribution_plot([], Distribution("exact", many), [Distribution("same", many)])
    assert figure.get_supxlabel() == "basis state, the likeliest first (of 32)"


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ConfigError, match="give at least one"):
        distribution_plot([], EXACT, [])
    with pytest.raises(ConfigError, match="b has 2 probabilities, exact has 4"):
        distribution_plot([], EXACT, [EXACT, Distribution("b", torch.tensor([0.5, 0.5]))])
