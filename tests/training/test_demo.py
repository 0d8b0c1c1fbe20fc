import pytest

from qpeft.training.demo import PROMPT, demo


@pytest.fixture(scope="module")
def short_demo(tmp_path_factory):
    return demo(tmp_path_factory.mktemp("demo") / "run", steps=40)


def test_qpa_and_lora_improve_on_the_embedded_model(short_demo):
    for name in ("QPA", "LoRA r=4"):
        result = short_demo.results[name]
        assert result.metrics["after"]["bits_per_byte"] < result.metrics["before"]["bits_per_byte"] < 2.3
        assert result.metrics["after"]["unknown_share"] == 0


def test_the_circuit_trains_fewer_numbers_than_the_smallest_lora(short_demo):
    counts = short_demo.results["QPA"].metrics["parameters"]
    assert counts["trained"] < counts["lora_rank_1"]


def test_lines_and_files_are_there(short_demo):
    assert short_demo.line_before.startswith(PROMPT) and short_demo.line_after.startswith(PROMPT)
    assert short_demo.plot.is_file()
    for result in short_demo.results.values():
        assert (result.folder / "lora" / "adapter_model.safetensors").is_file()
