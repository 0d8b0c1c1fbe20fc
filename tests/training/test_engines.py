import pytest

from qpeft.adapters import QPAConfig
from qpeft.errors import ConfigError, QpeftError
from qpeft.training import finetune
from qpeft.training.config import TrainingOptions
from qpeft.training.finetune import train
from tests.settings import adapter_settings


@pytest.mark.parametrize(
    ("engine", "diff_method", "gradient_shots"),
    [
        ("exact:20x", None, None),
        ("exact:20x", "parameter-shift", "100x"),
        ("exact:20x", "spsa", None),
        ("aer", None, None),
        ("aer:20x", None, None),
        ("aer@ibm_manila:20x", "straight-through", None),
        ("pauli@ibm_torino:20x", None, None),
        ("pennylane@lightning.qubit:20x", None, None),
    ],
)
def test_every_engine_trains(make_config, engine, diff_method, gradient_shots):
    adapter = adapter_settings(
        engine=engine, diff_method=diff_method, gradient_shots=gradient_shots, rank=2, reps=2, chunk_size=40
    )
    result = train(make_config(adapter, training=TrainingOptions(steps=2, batch_size=2)))
    assert result.metrics["generator"]["engine"]["name"] == engine
    assert result.metrics["export"]["max_difference"] < 1e-5
    report = (result.folder / "report.md").read_text(encoding="utf8")
    assert f"engine: {engine}" in report
    if "@ibm" in engine:
        assert "Noise of fake_" in report and "the calibration is of 20" in report


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("aer@ibm_nowhere:20x", "unknown device 'ibm_nowhere'"),
        ("torchquantum", "engine 'torchquantum' needs torchquantum"),
        ("pennylane@no.device", "no.device"),
    ],
)
def test_an_engine_that_cannot_be_is_refused_before_anything_is_loaded(make_config, monkeypatch, engine, message):
    def loading(config):
        raise AssertionError("work has started")

    monkeypatch.setattr(finetune, "prepare", loading)
    config = make_config(adapter_settings(engine=engine))
    with pytest.raises(QpeftError, match=message):
        train(config)
    assert not finetune.output_folder(config).exists()


def test_a_device_too_small_leaves_no_folder(make_config):
    config = make_config(adapter_settings(engine="aer@ibm_manila:20x", chunk_size=1))
    with pytest.raises(QpeftError, match="fake_manila has no line of"):
        train(config)
    assert not finetune.output_folder(config).exists()


def test_an_engine_object_is_told_to_get_a_name():
    with pytest.raises(ConfigError, match="engine is a object; give the name of a registered engine"):
        QPAConfig(r=2, target_modules=["lm_head"], engine=object())


def test_a_control_without_a_circuit_needs_no_engine(make_config):
    adapter = adapter_settings(source="none", engine="torchquantum", chunk_size=40)
    assert train(make_config(adapter, training=TrainingOptions(steps=1))).metrics["generator"]["source"] == "none"
