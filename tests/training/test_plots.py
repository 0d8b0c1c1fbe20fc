from qpeft.training.plots import loss_plot


def test_a_plot_is_written_whole_and_needs_no_display(tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    for name, magic in (("loss.png", b"\x89PNG"), ("loss.svg", b"<?xml"), ("loss.pdf", b"%PDF")):
        loss_plot(tmp_path / name, {"qpa": [(1, 3.0), (2, 2.5)], "lora": [(1, 2.9), (2, 2.0)]}, 3.1, {"qpa": 2.6})
        assert (tmp_path / name).read_bytes().startswith(magic)
    assert len(list(tmp_path.iterdir())) == 3
