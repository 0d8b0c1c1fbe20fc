"""transformers' Trainer on two CPU ranks, started by `accelerate launch`."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from tests.distributed.cases import BASES, batch
from tests.distributed.launching import launch
from tests.distributed.trainer_worker import losses, train
from tests.tiny_models import logits

pytestmark = pytest.mark.slow
BASE = "llama"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two ranks wrote.

    `--multi_gpu` asks for one process a rank; the worker's `use_cpu` then keeps them on the CPU. With `--cpu`,
    accelerate starts a single process unless it is given an MPI host file.
    """
    folder = tmp_path_factory.mktemp("trainer")
    launch(
        "accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--num_machines", 1,
        "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", 0,
        "-m", "tests.distributed.trainer_worker", folder, BASE,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def ranks(folder):
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf8")) for rank in (0, 1)]


def test_two_ranks_share_the_work(ranks):
    assert [(found["kind"], found["ranks"]) for found in ranks] == [("MULTI_CPU", 2)] * 2


def test_the_loss_decreases_and_is_that_of_one_process(ranks, tmp_path):
    expected = losses(train(tmp_path, BASE, ranks=1))
    assert ranks[0]["losses"] == pytest.approx(expected, abs=1e-5)
    assert expected[-1] < expected[0] - 0.05


def test_ranks_end_with_the_same_parameters(folder):
    first, second = (load_file(folder / f"{rank}.safetensors") for rank in (0, 1))
    assert first.keys() == second.keys()
    assert all("lora_bank" in name and torch.equal(first[name], second[name]) for name in first)


def test_the_saved_adapter_holds_the_trained_parameters(folder):
    trained = load_file(folder / "0.safetensors")
    loaded = PeftModel.from_pretrained(BASES[BASE][0](), folder / "adapter")
    for name, parameter in loaded.named_parameters():
        if "lora_bank" in name:
            torch.testing.assert_close(parameter.double(), trained[name], rtol=0, atol=1e-6)
    assert logits(loaded, input_ids=batch()).isfinite().all()
