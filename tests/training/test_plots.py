import pytest

from qpeft.training.plots import COLOURS, FinalValues, SeedCurves, curves_plot, final_plot, loss_plot


def test_a_plot_is_written_whole_and_needs_no_display(tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    for name, magic in (("loss.png", b"\x89PNG"), ("loss.svg", b"<?xml"), ("loss.pdf", b"%PDF")):
        loss_plot(
            [tmp_path / name],
            {"qpa": [(1, 3.0), (2, 2.5)], "lora": [(1, 2.9), (2, 2.0)]},
            3.1,
            {"qpa": 2.6},
            "loss (x)",
        )
        assert (tmp_path / name).read_bytes().startswith(magic)
    assert len(list(tmp_path.iterdir())) == 3


def test_loss_curves_show_mean_band_and_the_order_of_their_ends(tmp_path):
    curves = [SeedCurves("a", [1, 2], [[3.0, 1.0], [5.0, 2.0]]), SeedCurves("b", [1, 2], [[4.0, 4.0], [4.0, 5.0]])]
    paths = [tmp_path / "loss.png", tmp_path / "loss.svg"]
    figure = curves_plot(paths, "engine", curves, "loss (nats per egg)")
    assert all(path.stat().st_size > 1000 for path in paths)
    (axes,) = figure.axes
    a, b = axes.lines
    assert list(a.get_ydata()) == [4.0, 1.5] and list(b.get_ydata()) == [4.0, 4.5]
    assert (a.get_color(), a.get_linestyle()) != (b.get_color(), b.get_linestyle())
    box = axes.collections[0].get_datalim(axes.transData)
    assert (box.y0, box.y1) == (1.0, 5.0)  # the lowest and the highest seed of a
    (legend,) = axes.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["b", "a"]
    assert legend.get_title().get_text() == "engine"
    assert axes.get_ylabel() == "training loss (nats per egg)"


def test_many_loss_curves_have_dashes_of_their_own_and_no_bands():
    curves = [SeedCurves(str(end), [1, 2], [[3.0, end], [4.0, end]]) for end in range(7)]
    for shown, bands in ((3, 3), (4, 0), (7, 0)):
        (axes,) = curves_plot([], "engine", curves[:shown], "loss").axes
        assert len(axes.collections) == bands and len(axes.lines) == shown
        assert len({str(line._unscaled_dash_pattern) for line in axes.lines}) == shown


def test_final_values_show_every_seed_the_mean_and_the_exact_mean(tmp_path):
    figure = final_plot(
        [tmp_path / "final.svg"], "rank", [FinalValues("1", [2.0, 3.0]), FinalValues("2", [1.0, 2.0], [1.0, 1.5])],
        "hits; more is better",
    )  # fmt: skip
    (axes,) = figure.axes
    points = [collection.get_offsets().tolist() for collection in axes.collections]
    assert points == [[[2.0, 0.0], [3.0, 0.0]], [[1.0, 1.0], [2.0, 1.0]], [[1.25, 1.0]]]
    assert [line.get_xdata()[0] for line in axes.lines] == [2.5, 1.5]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1", "2"]
    assert axes.get_xlabel() == "test data after training (hits; more is better)"
    names = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert names == ["a seed", "mean", "mean with exact weights"]


def test_final_values_with_differences_have_a_second_panel():
    figure = final_plot(
        [], "source",
        [FinalValues("circuit", [2.0, 2.2], interval=0.5, colour=3),
         FinalValues("none", [2.5, 2.5], differences=[0.5, 0.3], difference_interval=0.2, colour=1)],
        "hits", "less the circuit",
    )  # fmt: skip
    left, right = figure.axes
    assert [list(line.get_xdata()) for line in left.lines] == [[2.1, 2.1], [1.6, 2.6], [2.5, 2.5]]
    mean, interval, zero = (list(line.get_xdata()) for line in right.lines)
    assert (mean, interval, zero) == ([0.4, 0.4], pytest.approx([0.2, 0.6]), [0, 0])
    assert right.collections[0].get_offsets().tolist() == [[0.5, 1.0], [0.3, 1.0]]
    assert [line.get_color() for line in left.lines] == [COLOURS[3]] * 2 + [COLOURS[1]]
    assert right.get_xlabel() == "less the circuit"
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["a seed", "mean", "95% confidence interval"]


def test_figures_are_returned_for_notebooks_and_need_no_path():
    figure = final_plot([], "rank", [FinalValues("1", [2.0])], "hits")
    assert figure.axes[0].get_ylabel() == "rank"
    (axes,) = curves_plot([], "rank", [SeedCurves("1", [1], [[2.0]])], "loss").axes
    assert axes.get_xlabel() == "step" and axes.lines[0].get_marker() == "o"  # a point alone has no line
    assert loss_plot([], {"a": [(1, 2.0)]}, 3.0, {}, "loss").axes[0].get_ylabel() == "loss"


def test_curves_of_one_colour_differ_in_dashes():
    curves = [SeedCurves("a", [1, 2], [[1.0, 2.0]]), SeedCurves("a at equal budget", [1, 2], [[2.0, 3.0]], colour=0)]
    one, other = curves_plot([], "source", curves, "loss").axes[0].lines
    assert one.get_color() == other.get_color() and one.get_linestyle() != other.get_linestyle()
