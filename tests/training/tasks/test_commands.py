import csv

import pytest
from typer.testing import CliRunner

from qpeft.cli import app
from qpeft.errors import ConfigError
from tests.tiny_models import llama
from tests.training.tasks.glue_files import write_model, write_sst2


@pytest.fixture
def common(tmp_path, model_folder):
    model = write_model(tmp_path / "model", llama(tied=True), model_folder)
    data = write_sst2(tmp_path / "sst2")
    return [
        "--task", "classification", "--model", str(model), "--data", str(data), "--context", "16", "--steps", "2",
        "--batch-size", "4", "--method", "lora", "--rank", "1", "--max-train-examples", "20",
    ]  # fmt: skip


def test_train_prints_what_it_found_and_the_tasks_metrics(common, tmp_path):
    arguments = ["train", *common, "--targets", "q_proj", "--output", str(tmp_path / "run")]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    shown = " ".join(done.stdout.split())
    assert done.exit_code == 0
    assert "Texts: sentence; labels: label (0, 1); 20 training and 12 test examples, 0 of them cut" in shown
    assert (
        "no weights for score: drawn from the seed and trained in full. The metrics before training are chance."
        in shown
    )
    header = "method adapter head accuracy F1 Matthews majority ms/step"
    assert header in shown and " 64 " in shown and "0.667" in shown  # the head's weights, two thirds are no cats
    with pytest.raises(ConfigError, match="there is no column 'words'; the table has the columns 'sentence', 'label'"):
        CliRunner().invoke(app, [*arguments, "--text-column", "words", "--overwrite"], catch_exceptions=False)


def test_compare_is_by_accuracy(common, tmp_path):
    arguments = [
        "compare",
        *common,
        "--vary",
        "targets=q_proj,v_proj",
        "--seeds",
        "1",
        "--output",
        str(tmp_path / "cmp"),
    ]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stdout.count("Texts: sentence;") == 1  # once, not for every run
    assert "2/2  v_proj, seed 0: 0." in done.stdout and " accuracy, " in done.stdout
    rows = list(csv.DictReader((tmp_path / "cmp" / "table.csv").open(encoding="utf8")))
    assert [0 <= float(row["accuracy_mean"]) <= 1 for row in rows] == [True, True]
