"""Settings of every test, and a tiny model folder with a tokeniser of its own to train."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a name that is no folder must fail at once, not after time-outs

import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from qpeft.qcircuits import StatevectorEngine
from qpeft.training.config import DataOptions, ModelOptions, RunOptions, TrainConfig, TrainingOptions
from tests.tiny_models import gpt2

torch.set_num_threads(1)  # tiny models: more threads than this only get in the way of parallel test workers

# The same examples on every machine, and no time limit an example: a busy machine must not fail a test.
settings.register_profile("qpeft", deadline=None, max_examples=60, database=None, derandomize=True)
settings.load_profile("qpeft")

SENTENCES = [f"the {animal} sat on the {place} and saw {n} birds.\n" for n in range(12)
             for animal in ("cat", "dog", "fox") for place in ("mat", "roof", "wall", "hill")]  # fmt: skip


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "animals.txt"
    path.write_text("".join(SENTENCES), encoding="utf8")
    return path


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    gpt2(tied=True).save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=100, special_tokens=["<unk>", "<end>"], show_progress=False)
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>").save_pretrained(folder)
    return folder


@pytest.fixture
def make_config(model_folder, text_file, tmp_path):
    def make(adapter=None, data=None, model=None, training=None, **run):
        return TrainConfig(
            model=ModelOptions(model=str(model or model_folder)),
            data=DataOptions(data=str(data or text_file), context=16),
            training=training or TrainingOptions(steps=6, batch_size=2, warmup_steps=1),
            run=RunOptions(**{"output": str(tmp_path / "run"), "save_every": 3, "log_every": 1, **run}),
            **(adapter or {}),
        )

    return make


@pytest.fixture
def engine_calls(monkeypatch):
    """The circuits that the exact engine has run, in order."""
    calls = []
    probabilities = StatevectorEngine.probabilities

    def counting(self, circuit, angles):
        calls.append(circuit)
        return probabilities(self, circuit, angles)

    monkeypatch.setattr(StatevectorEngine, "probabilities", counting)
    return calls
