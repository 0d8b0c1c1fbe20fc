import pytest
from peft import PrefixTuningConfig

from qpeft.adapters import FeedForwardConfig, QPAConfig, QPAPrefixConfig
from qpeft.adapters.attach import attach
from qpeft.errors import ConfigError
from tests.tiny_models import gpt2


def faulty(*arguments):
    raise TypeError("a fault")


@pytest.mark.parametrize(
    "config",
    [
        QPAConfig(r=2, target_modules=["lm_head"]),
        FeedForwardConfig(target_modules=["lm_head"]),
        QPAPrefixConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
    ],
    ids=lambda config: type(config).__name__,
)
def test_a_fault_of_ours_is_not_laid_to_peft(config, monkeypatch):
    monkeypatch.setattr("qpeft.adapters.attach.get_peft_model", faulty)
    with pytest.raises(TypeError, match=r"^a fault$"):
        attach(gpt2(), config)


def test_what_peft_says_of_its_own_methods_is_said_with_the_method(monkeypatch):
    monkeypatch.setattr("qpeft.adapters.attach.get_peft_model", faulty)
    with pytest.raises(ConfigError, match="peft cannot put a PREFIX_TUNING adapter on this model: a fault"):
        attach(gpt2(), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
