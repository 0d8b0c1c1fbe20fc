import pytest

from qpeft.errors import ConfigError
from qpeft.training.config import AdapterOptions
from qpeft.training.counting import CHUNK_SIZES, count


@pytest.fixture
def gpt2_folder(tmp_path):
    """GPT-2's own sizes, as a config alone: no weights exist."""
    from transformers import GPT2Config

    GPT2Config().save_pretrained(tmp_path)
    return str(tmp_path)


def test_the_papers_gpt2_counts_from_the_config_alone(gpt2_folder):
    """arXiv 2410.09846, Table 8: LoRA r=4 of lm_head has 204,100 numbers; QPA's at n_mlp 256 ... 8192."""
    found = count(gpt2_folder, AdapterOptions(rank=4, preset="paper"), [256, 512, 1024, 2048, 4096, 8192])
    assert found.target_size == 204_100
    assert found.lora_rank_1 == 51_025
    assert [spec.num_parameters for spec in found.specs] == [47248, 55656, 72512, 106264, 173808, 308936]
    assert [spec.num_qubits for spec in found.specs] == [10, 9, 8, 7, 6, 5]


def test_a_usual_range_and_the_default(gpt2_folder):
    found = count(gpt2_folder, AdapterOptions())
    sizes = [spec.chunk_size for spec in found.specs]
    assert set(CHUNK_SIZES) < set(sizes) and sizes == sorted(sizes)
    (default,) = [spec for spec in found.specs if spec.chunk_size not in CHUNK_SIZES]
    assert default.num_parameters <= 51_025 // 2


def test_several_targets(gpt2_folder):
    found = count(gpt2_folder, AdapterOptions(rank=2, targets=["c_attn,c_proj"]))
    assert len(found.targets) == 12 * 3  # attention and MLP both have a c_proj
    assert found.target_size == 2 * 12 * ((2304 + 768) + (768 + 768) + (768 + 3072))


def test_bad_input(gpt2_folder):
    with pytest.raises(ConfigError, match="chunk size 300000 is not in 1 to 204100"):
        count(gpt2_folder, AdapterOptions(), [300_000])
    with pytest.raises(ConfigError, match="Did you mean 'lm_head'"):
        count(gpt2_folder, AdapterOptions(targets=["lmhead"]))


def test_a_budget_adds_the_chunk_size_it_allows(gpt2_folder):
    found = count(gpt2_folder, AdapterOptions(budget=9000), [16])
    asked, allowed = found.specs
    assert asked.chunk_size == 16
    assert 8900 < allowed.num_parameters <= 9000
