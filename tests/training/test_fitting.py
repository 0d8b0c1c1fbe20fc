"""What ends the training loop early."""

import pytest

from qpeft.errors import ConfigError, RunError
from qpeft.training import fitting
from qpeft.training.config import TrainingOptions
from qpeft.training.finetune import train
from tests.settings import adapter_settings

SERIES = adapter_settings(method="quantum-peft", rank=2, targets=["c_attn"], parametrization="neumann")


def test_a_series_that_comes_to_its_limit_says_when_and_what_to_do(make_config, tmp_path):
    config = make_config(SERIES, training=TrainingOptions(steps=9, batch_size=1, warmup_steps=0, learning_rate=0.2))
    message = r"stopped after step [2-8] of 9: .*needs \|\|A\|\|_2 < 1.* learning rate\. The adapter was not saved"
    with pytest.raises(RunError, match=message):
        train(config)
    assert not (tmp_path / "run" / "adapter").exists()


def test_what_cannot_start_is_a_setting(make_config, monkeypatch):
    def refuse(*args, **options):
        raise ConfigError("damaged checkpoint")

    monkeypatch.setattr(fitting.Trainer, "train", refuse)
    with pytest.raises(ConfigError, match=r"^damaged checkpoint"):
        train(make_config(SERIES))
