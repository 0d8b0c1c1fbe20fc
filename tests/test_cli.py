import subprocess
import sys

import pytest
import tomli_w

COMPARE = ("compare", "--model", "embedded", "--data", "embedded", "--vary")


def qpeft(*arguments, timeout=300):
    return subprocess.run(
        [sys.executable, "-c", "from qpeft.cli import main; main()", *map(str, arguments)],
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


def words(text):
    return " ".join(text.split())


def helped(*command):
    """What `--help` of a command prints; its process must not load what only work needs."""
    program = (
        f"import sys; sys.argv = ['qpeft', *{command!r}, '--help']\n"
        "from qpeft.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "loaded = {'transformers', 'peft', 'accelerate', 'torch._dynamo', 'matplotlib'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_the_list_of_commands_loads_no_library():
    printed = helped()
    assert "train" in printed and "compare" in printed


@pytest.mark.parametrize("command", ["train", "compare"])
def test_help_teaches_without_loading_transformers(command):
    printed = helped(command)
    for flag in ("--model", "--data", "--method", "--rank", "--chunk-size", "--budget", "--ansatz", "--resume"):
        assert flag in printed
    assert f"qpeft {command} --model embedded --data embedded" in words(printed)


def test_train_from_toml_with_a_flag_over_it(model_folder, text_file, tmp_path):
    settings = {"model": {"model": str(model_folder)}, "data": {"data": str(text_file), "context": 16},
                "training": {"steps": 50, "batch_size": 2}, "run": {"output": str(tmp_path / "run")}}  # fmt: skip
    (tmp_path / "settings.toml").write_text(tomli_w.dumps(settings), encoding="utf8")
    done = qpeft("train", "--config", tmp_path / "settings.toml", "--steps", 2)
    assert done.returncode == 0, done.stderr
    assert "bits/byte" in done.stdout
    assert "Results:" in done.stdout
    again = qpeft("train", "--config", tmp_path / "settings.toml", "--steps", 2)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr


def test_compare_prints_the_table_and_fails_if_a_run_did(model_folder, text_file, tmp_path):
    common = ("compare", "--model", model_folder, "--data", text_file, "--context", 16, "--steps", 2, "--seeds", 1,
              "--batch-size", 2, "--output", tmp_path / "cmp")  # fmt: skip
    done = qpeft(*common, "--vary", "engine=exact,exact:10x", "--vary", "rank=1,2")
    assert done.returncode == 0, done.stderr
    assert "4/4 exact:10x, 2, seed 0: " in words(done.stdout)
    for column in ("engine", "rank", "bits/byte", "variation", "fidelity", "ms/step"):
        assert column in done.stdout
    assert (tmp_path / "cmp" / "report.md").is_file()
    again = qpeft(*common, "--vary", "engine=exact,exact:10x", "--vary", "rank=1,2")
    assert again.returncode == 2 and "--resume" in again.stderr
    failed = qpeft(*common, "--vary", "learning-rate=0.03,1e38", "--warmup-steps", 0, "--overwrite")
    assert failed.returncode == 1
    assert "Error: 1 of 2 runs failed;" in words(failed.stderr)
    assert "1e+38, seed 0: failed: training diverged" in words(failed.stdout)


def test_count(model_folder):
    done = qpeft("count", "--model", model_folder, "--rank", 2, "--chunk-size", 16)
    assert done.returncode == 0, done.stderr
    assert "LoRA r=1 on these layers trains 132." in words(done.stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compare", "--model", "embedded", "--data", "embedded"), "nothing is varied; give --vary"),
        ((*COMPARE, "engin=exact"), "unknown setting 'engin'. Did you mean 'engine'"),
        ((*COMPARE, "rank=1,x"), "rank has the value 'x'; expected int"),
        ((*COMPARE, "rank=1,2", "--seeds", "0"), "seeds is 0; it must be at least 1"),
        ((*COMPARE, "ansatz=ry_cnot,ryy", "--output", "{}"), "the combination ansatz=ryy is refused: unknown ansatz"),
        (("train",), "--model is required"),
        (("train", "--model", "embedded"), "--data is required"),
        (("train", "--model", "embedded", "--data", "embedded", "--rank", "0"), "rank is 0; it must be at least 1"),
        (("train", "--model", "embedded", "--data", "embedded", "--learning-rate", "nan"), "learning_rate is nan"),
        (("train", "--model", "nowhere/at/all", "--data", "embedded"), "is no model folder"),
        (("train", "--model", "embedded", "--data", "no-such.txt", "--output", "{}"), "is no text file"),
        (("train", "--model", "embedded", "--data", "embedded", "--rank", "four"), "Invalid value for '--rank'"),
        (("train", "--model", "embedded", "--data", "embedded", "--ranc", "4"), "No such option: --ranc"),
        (("train", "--data", "embedded"), "give it as a flag or in [model]"),
        (("train", "--config", "tests"), "the config file tests cannot be read"),
        (("train", "--model", "embedded", "--data", "embedded", "--weight-decay", "nan"), "weight_decay is nan"),
        (("train", "--model", "embedded", "--data", "embedded", "--seed", "5000000000"), "must be below 2**32"),
        (("train", "--model", "[/red]/x", "--data", "embedded"), "[/red]/x is no model folder"),
        (("train", "--config", "no-such.toml"), "there is no config file no-such.toml"),
        (("count", "--model", "embedded", "--targets", "lmhead"), "Did you mean 'lm_head'"),
        (
            ("count", "--model", "embedded", "--chunk-size", "0"),
            "chunk_size is 0; it must be",
        ),
    ],
)
def test_errors_are_one_message_and_exit_code_2(arguments, message, tmp_path):
    done = qpeft(*(argument.format(tmp_path / "out") for argument in arguments))
    assert done.returncode == 2
    assert message in words(done.stderr.replace("│", " "))
    assert "Traceback" not in done.stderr
