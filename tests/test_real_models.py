"""Real pretrained models and text, where a folder of them is at hand (QPEFT_SHARED, by default ../shared)."""

import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from qpeft.training.config import DataOptions, ModelOptions, RunOptions, TrainConfig, TrainingOptions
from qpeft.training.finetune import train
from tests.settings import adapter_settings

DATA = Path(os.environ.get("QPEFT_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no folder of real models at {DATA}; set QPEFT_SHARED")


@pytest.mark.parametrize("model", ["lm_stories260K", "lm_tinystories656k"])
@pytest.mark.parametrize("targets", [None, LINEAR_LAYERS], ids=["head", "all"])
def test_a_real_model_learns_and_its_weights_stay(model, targets, tmp_path):
    folder = DATA / model
    config = TrainConfig(
        model=ModelOptions(model=str(folder)),
        data=DataOptions(
            data=str(DATA / "wikitext2"), clean="wikitext", by_line=True, max_train_chars=200_000, max_test_chars=20_000
        ),
        **adapter_settings(targets=targets), training=TrainingOptions(steps=20),
        run=RunOptions(output=str(tmp_path / "run")),
    )  # fmt: skip
    result = train(config)
    assert result.metrics["after"]["bits_per_byte"] < result.metrics["before"]["bits_per_byte"] - 0.02
    unknown = result.metrics["after"]["unknown_share"]
    assert 0 < unknown < 0.05 if model == "lm_tinystories656k" else unknown == 0  # the other falls back to bytes
    adapted = result.model.unload().state_dict()
    for name, tensor in AutoModelForCausalLM.from_pretrained(folder).state_dict().items():
        assert torch.equal(adapted[name], tensor), name
