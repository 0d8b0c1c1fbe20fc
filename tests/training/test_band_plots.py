from qpeft import gradient_variance
from qpeft.training.band_plots import BandLine, BandPanel, ReferenceLine, bands_plot
from qpeft.training.trainability.references import one_layer_global, two_design


def test_panels_share_scales_colours_and_one_legend(tmp_path):
    line = BandLine("2", [1, 4], [1e-2, 1e-4], [5e-3, 5e-5], [2e-2, 2e-4])
    other = BandLine("3", [1, 4], [1e-3, 1e-5], [1e-3, 1e-5], [1e-3, 1e-5])
    reference = ReferenceLine("derived", [1, 4], [1e-4, 1e-4], of="3")
    paths = [tmp_path / "bands.png", tmp_path / "bands.svg", tmp_path / "bands.pdf"]
    panels = [BandPanel(name, [line, other], [reference]) for name in ("a", "b", "c", "d")]
    figure = bands_plot(paths, panels, "all", "layers", "variance (x)", "qubits", log_x=True)
    assert all(path.stat().st_size > 1000 for path in paths) and len(list(tmp_path.iterdir())) == 3
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "c", "d"]
    first = figure.axes[0]
    assert first.get_yscale() == "log" and first.get_xscale() == "log"
    assert [text.get_text() for text in figure.axes[-1].get_xticklabels()] == ["1", "4"]
    derived, two, three = first.lines
    assert list(two.get_ydata()) == [1e-2, 1e-4] and derived.get_color() == three.get_color() != two.get_color()
    assert two.get_marker() != three.get_marker() and derived.get_linestyle() == "--"
    box = first.collections[0].get_datalim(first.transData)
    assert (box.y0, box.y1) == (5e-5, 2e-2)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["2", "3", "derived"]
    assert figure.get_suptitle() == "all"
    assert figure.get_supxlabel() == "layers" and figure.get_supylabel() == "variance (x)"


def test_variances_are_drawn_with_what_is_derived_for_them():
    rows = gradient_variance(["ry_cnot", "rxrz_cnot"], [2, 3], [1, 2], ["global"], initialisations=5)
    by_qubits, by_reps = rows.plot(), rows.plot("reps")
    real, complexes = by_qubits.axes
    design, layer, one, two = real.lines
    assert list(design.get_ydata()) == [two_design("global", n, is_real=True) for n in (2, 3)]
    assert list(layer.get_ydata()) == [one_layer_global(2), one_layer_global(3)]
    assert [list(line.get_ydata()) for line in (one, two)] == [
        [row.variance for row in rows if row.ansatz == "ry_cnot" and row.reps == reps] for reps in (1, 2)
    ]
    assert list(complexes.lines[0].get_ydata()) == [two_design("global", n, is_real=False) for n in (2, 3)]
    assert len(complexes.lines) == 3  # no product of one layer there
    levels = [list(line.get_ydata()) for line in by_reps.axes[0].lines[:2]]
    assert levels == [[two_design("global", n, is_real=True)] * 2 for n in (2, 3)]


def test_engines_are_compared_at_the_most_layers():
    rows = gradient_variance("ry_cnot", [2, 3], [1, 2], ["local"], ["exact", "exact:16"], initialisations=5)
    figure = rows.plot("engine")
    ((*designs, exact, sampled),) = [axes.lines for axes in figure.axes]
    assert [list(line.get_ydata()) for line in designs] == [
        [row.two_design for row in rows if row.engine == engine and row.reps == 2] for engine in ("exact", "exact:16")
    ]
    assert [line.get_color() for line in designs] == [exact.get_color(), sampled.get_color()]
    for line, engine in ((exact, "exact"), (sampled, "exact:16")):
        assert list(line.get_ydata()) == [row.variance for row in rows if row.engine == engine and row.reps == 2]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["exact", "exact:16", "2-design"]
    assert "local" in figure.get_suptitle() and "exact" not in figure.get_suptitle()
    assert "2 layers" in figure.get_supxlabel()
