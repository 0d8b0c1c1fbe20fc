"""`qpeft train` on two ranks: one run folder, one table, and the run that one process makes with twice the batch."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.launching import launch

pytestmark = pytest.mark.slow
OPTIONS = ("--model", "embedded", "--data", "embedded", "--budget", "1200", "--steps", "4", "--context", "32")


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    folder = tmp_path_factory.mktemp("single") / "run"
    launch("qpeft", "train", *OPTIONS, "--batch-size", 4, "--output", folder)
    return folder


@pytest.fixture(scope="module")
def double(tmp_path_factory):
    folder = tmp_path_factory.mktemp("double") / "run"
    printed = launch(
        "torch.distributed.run", "--standalone", "--nproc-per-node", 2,
        "-m", "qpeft", "train", *OPTIONS, "--batch-size", 2, "--output", folder,
    )  # fmt: skip
    return folder, printed


def test_a_failure_of_rank_0_after_training_ends_the_others(tmp_path):
    printed = launch(
        "torch.distributed.run", "--standalone", "--nproc-per-node", 2,
        "-m", "tests.distributed.failing_worker", tmp_path / "run", seconds=120,
    )  # fmt: skip
    assert "rank 0 ends: no space left" in printed
    assert "rank 1 ends: rank 0 failed before" in printed


def test_one_rank_speaks(double):
    assert double[1].count("Results:") == 1


def test_one_folder_holds_what_a_run_leaves(single, double):
    assert {path.name for path in double[0].iterdir()} == {path.name for path in single.iterdir()}
    assert json.loads((double[0] / "run.json").read_text(encoding="utf8"))["status"] == "finished"


def test_the_ranks_trained_what_one_process_trains_with_the_whole_batch(single, double):
    expected, found = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (single, double[0]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    metrics = [json.loads((folder / "metrics.json").read_text(encoding="utf8")) for folder in (single, double[0])]
    assert metrics[0]["before"]["nats_per_token"] - metrics[0]["after"]["nats_per_token"] > 1e-3
    assert metrics[1]["after"]["nats_per_token"] == pytest.approx(metrics[0]["after"]["nats_per_token"], abs=1e-4)
