import pytest
from typer.testing import CliRunner

from qpeft.adapters.export import FORMS
from qpeft.adapters.method_table import METHODS
from qpeft.cli import app
from qpeft.generators.frames.counts import CONVENTIONS

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def run(*arguments):
    return CliRunner(env={"COLUMNS": "100"}).invoke(app, arguments)


def test_methods_lists_every_method_with_its_source():
    result = run("methods")
    assert result.exit_code == 0
    for name, method in METHODS.items():
        assert f" {name} " in result.output
        assert method.source.split(",")[0] in result.output


@pytest.mark.parametrize("columns", ["80", "100"])
def test_methods_cuts_no_word(columns):
    output = CliRunner(env={"COLUMNS": columns}).invoke(app, ["methods"]).output
    shown = set(output.split())
    for form in {METHODS[name].export for name in METHODS}:
        assert set(FORMS[form].title.split()) <= shown
    for name in METHODS:
        assert f" {name} " in output
    assert max(map(len, output.splitlines())) <= int(columns)


def test_count_says_what_trains_and_lists_chunk_sizes():
    result = run("count", "--model", "embedded", "--budget", "1200", "--chunk-sizes", "16", "--chunk-sizes", "64")
    assert result.exit_code == 0
    text = " ".join(result.output.split())
    assert "qpa on 1 layer(s) of embedded trains 1,193 numbers" in text
    rows = [line.split() for line in result.output.splitlines() if line.count("%") == 2]
    assert [row[:5] for row in rows] == [
        ["16", "544", "10", "80", "544"], ["64", "136", "8", "64", "1,312"], ["57", "153", "8", "64", "1,193"],
    ]  # fmt: skip


def test_count_of_a_plain_method():
    result = run("count", "--model", "embedded", "--method", "lora", "--rank", "2")
    assert "lora on 1 layer(s) of embedded trains 4,352 numbers, 0.40% of" in " ".join(result.output.split())
    assert "chunk size" not in result.output


@pytest.mark.parametrize("method", ["prefix", "qpa-prefix"])
def test_count_of_a_prefix_is_of_every_layer_and_is_compared_with_the_head(method):
    text = " ".join(run("count", "--model", "embedded", "--method", method).output.split())
    assert f"{method} on every layer's keys and values of embedded trains " in text
    assert "LoRA r=1 on lm_head alone trains 2,176." in text
    assert "layer(s)" not in text


def test_count_of_several_generators():
    result = run("count", "--model", "embedded", "--targets", "c_attn", "--scope", "layer")
    assert "4 generators; qubits are those of the largest." in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "lora", "--budget", "500"), "--budget is no setting of the method lora; leave it out. It takes"),
        (("--method", "houlsby", "--placement", "after"), "--placement is no setting of the method houlsby"),
        (("--method", "adalora", "--bottleneck", "4"), "--bottleneck is no setting of the method adalora"),
    ],
)
def test_settings_that_a_method_does_not_look_at_are_refused(arguments, message):
    result = run("count", "--model", "embedded", *arguments)
    assert message in str(result.exception)


def test_settings_that_a_method_derives_are_taken():
    assert run("count", "--model", "embedded", "--method", "adalora", "--rank", "2").exit_code == 0


@pytest.mark.parametrize("columns", ["80", "120"])
@pytest.mark.parametrize(
    ("arguments", "convention", "trained", "working"),
    [
        ((), "eq2-single", "54", "1 layer(s) 2,048 x 128: U 31 + V 19 + diagonal 4 = 54"),
        (
            ("--parametrization", "taylor", "--intrinsic-rank", "1"), "triangle-strict", "2,178",
            "1 layer(s) 2,048 x 128: U 2,047 + V 127 + diagonal 4 = 2,178",
        ),
    ],
)  # fmt: skip
def test_count_of_quantum_peft(columns, arguments, convention, trained, working):
    invoke = CliRunner(env={"COLUMNS": columns}).invoke
    result = invoke(app, ["count", "--model", "embedded", "--method", "quantum-peft", *arguments])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert f"quantum-peft on 1 layer(s) of embedded trains {trained} numbers" in " ".join(result.output.split())
    assert f"  {working}" in lines
    (marked,) = (line.split() for line in lines if line.startswith(" > "))
    assert marked[1] == convention and trained in marked
    named = {word for line in lines for word in line.split()[:2]}
    assert {*CONVENTIONS, "LoRA", "AdaLoRA"} <= named
    assert max(map(len, lines)) <= int(columns)


def test_count_of_quantum_peft_with_a_circuit_that_the_paper_does_not_have():
    output = run("count", "--model", "embedded", "--method", "quantum-peft", "--ansatz", "ry_cnot").output
    assert "The paper has no formula for this circuit." in output
    assert "\n > " not in output and "numbers of a frame" not in output


def test_a_small_share_is_not_zero():
    output = run("count", "--model", "embedded", "--method", "quantum-peft").output
    assert "54 numbers, under 0.01% of the model's 1,088,256." in " ".join(output.split())
