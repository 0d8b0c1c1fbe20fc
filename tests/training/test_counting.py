import pytest

from qpeft.errors import ConfigError
from qpeft.training.adapter_options import CountConfig
from qpeft.training.counting import CHUNK_SIZES, count
from tests.settings import adapter_settings


def options(**settings):
    return CountConfig(**adapter_settings(**settings))


@pytest.fixture
def gpt2_folder(tmp_path):
    """GPT-2's own sizes, as a config alone: no weights exist."""
    from transformers import GPT2Config

    GPT2Config().save_pretrained(tmp_path)
    return str(tmp_path)


def test_the_papers_gpt2_counts_from_the_config_alone(gpt2_folder):
    """arXiv 2410.09846, Table 8: LoRA r=4 of lm_head has 204,100 numbers; QPA's at n_mlp 256 ... 8192."""
    found = count(gpt2_folder, options(rank=4, preset="paper"), [256, 512, 1024, 2048, 4096, 8192])
    assert found.generated == 204_100
    assert found.lora_rank_1 == 51_025
    assert [choice.num_parameters for choice in found.choices] == [47248, 55656, 72512, 106264, 173808, 308936]
    assert [choice.largest.num_qubits for choice in found.choices] == [10, 9, 8, 7, 6, 5]


def test_a_usual_range_and_the_default(gpt2_folder):
    found = count(gpt2_folder, options())
    sizes = [choice.chunk_size for choice in found.choices]
    assert set(CHUNK_SIZES) < set(sizes) and sizes == sorted(sizes)
    (default,) = [choice for choice in found.choices if choice.chunk_size not in CHUNK_SIZES]
    assert default.num_parameters <= 51_025 // 2
    assert found.trained == default.num_parameters


def test_frozen_numbers_are_counted_beside(gpt2_folder):
    assert count(gpt2_folder, options(rank=4)).frozen == 4 * 768  # the random A
    assert count(gpt2_folder, options(rank=4, start="paper")).frozen == 0
    assert count(gpt2_folder, options(method="lora")).frozen == 0


def test_several_targets(gpt2_folder):
    found = count(gpt2_folder, options(rank=2, targets=["c_attn,c_proj"]))
    assert len(found.targets) == 12 * 3  # attention and MLP both have a c_proj
    assert found.generated == 2 * 12 * ((2304 + 768) + (768 + 768) + (768 + 3072))


def test_bad_input(gpt2_folder):
    with pytest.raises(ConfigError, match="chunk size 300000 is not in 1 to 204100"):
        count(gpt2_folder, options(), [300_000])
    with pytest.raises(ConfigError, match="Did you mean 'lm_head'"):
        count(gpt2_folder, options(targets=["lmhead"]))


def test_a_budget_adds_the_chunk_size_it_allows(gpt2_folder):
    found = count(gpt2_folder, options(budget=9000), [16])
    asked, allowed = found.choices
    assert asked.chunk_size == 16
    assert 8900 < allowed.num_parameters <= 9000


def test_a_method_that_generates_nothing(gpt2_folder):
    found = count(gpt2_folder, options(method="dora", rank=2))
    assert (found.trained, found.generated, found.choices) == (2 * 51_025 + 50_257, None, [])
    assert found.model == 124_439_808  # GPT-2, its tied head counted once
    assert found.targets == {"lm_head": (50_257, 768)}


def test_a_prefix_changes_no_layer_and_is_compared_with_the_head(gpt2_folder):
    found = count(gpt2_folder, options(method="prefix", virtual_tokens=10))
    assert found.trained == 10 * 2 * 12 * 768
    assert found.lora_rank_1 == 51_025


def test_one_generator_a_layer(gpt2_folder):
    found = count(gpt2_folder, options(targets=["c_attn"], scope="layer"), [64])
    (choice,) = found.choices
    assert len(choice.specs) == 12
    assert choice.num_parameters == 12 * choice.specs[0].num_parameters


def test_frames_are_counted_beside_what_trains(gpt2_folder):
    """arXiv 2503.05431, eq. 2: 2 (3 q - 2) angles and K values a layer, here of 768 x 768 cut from 1024."""
    found = count(gpt2_folder, options(method="quantum-peft", rank=3, targets=["attn.c_proj"], other_sizes="pad"))
    assert found.trained == 12 * (2 * 28 + 3)
    assert found.frames.rank == 3 and found.generated is None and not found.choices
    assert count(gpt2_folder, options()).frames is None
