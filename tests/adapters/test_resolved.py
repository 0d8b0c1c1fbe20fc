"""Settings that were added after an adapter was saved, for both kinds of generated adapters."""

import json

import pytest
from peft import PeftModel, get_peft_model

from qpeft.adapters import QPAConfig, QuantumPEFTConfig
from qpeft.adapters.resolved import another_build, changed_settings
from qpeft.errors import ConfigError
from tests.tiny_models import gpt2

MADE = {
    "qpa": (lambda: QPAConfig(r=2, target_modules=["lm_head"]), "budget"),
    "frames": (lambda: QuantumPEFTConfig(r=2, target_modules=["lm_head"]), "kappa"),
}


def edited(folder, change):
    path = folder / "adapter_config.json"
    data = json.loads(path.read_text())
    change(data["resolved"]["settings"])
    path.write_text(json.dumps(data))


@pytest.mark.parametrize("name", MADE)
def test_a_setting_that_an_older_file_lacks_is_none(tmp_path, name):
    make, setting = MADE[name]
    get_peft_model(gpt2(), make()).save_pretrained(tmp_path)
    edited(tmp_path, lambda settings: settings.pop(setting))
    PeftModel.from_pretrained(gpt2(), tmp_path)


@pytest.mark.parametrize("name", MADE)
def test_a_setting_of_a_newer_file_is_named(tmp_path, name):
    get_peft_model(gpt2(), MADE[name][0]()).save_pretrained(tmp_path)
    edited(tmp_path, lambda settings: settings.update(later=None))
    PeftModel.from_pretrained(gpt2(), tmp_path)
    edited(tmp_path, lambda settings: settings.update(later=3))
    with pytest.raises(ConfigError, match="its config's later changed since it was built"):
        PeftModel.from_pretrained(gpt2(), tmp_path)


def test_names_of_both_sides_are_compared():
    assert changed_settings({"a": 1, "b": None, "c": 2}, {"a": 1, "c": 3, "d": None, "e": 4}) == ["c", "e"]
    assert changed_settings({"gone": 1}, {}) == ["gone"]
    assert "its config's gone changed" in str(another_build({"gone": 1}, {}, None))
