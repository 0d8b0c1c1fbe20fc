"""Adapters that cannot be put together, and adapter folders that cannot be read, for every method of ours."""

import dataclasses
import json
import shutil
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file

from qpeft.adapters import (
    AdditivePrefixConfig,
    FeedForwardConfig,
    QPAAdditivePrefixConfig,
    QPAConfig,
    QPAFeedForwardConfig,
    QPAPrefixConfig,
    QuantumPEFTConfig,
    SoRAConfig,
)
from qpeft.errors import CircuitError, ConfigError
from tests.tiny_models import gpt2, logits

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*(second time|peft_config. attribute|tie_word_embeddings|fan_in_fan_out)"),
]

HEAD = ["lm_head"]
MAKE = {
    "QPA": lambda: QPAConfig(r=2, target_modules=HEAD, chunk_size=8),
    "QPA_FEED_FORWARD": lambda: QPAFeedForwardConfig(target_modules=HEAD, chunk_size=8),
    "QPA_ADDITIVE_PREFIX": lambda: QPAAdditivePrefixConfig(target_modules=HEAD, length=8, chunk_size=8),
    "FEED_FORWARD": lambda: FeedForwardConfig(target_modules=HEAD),
    "ADDITIVE_PREFIX": lambda: AdditivePrefixConfig(target_modules=HEAD, length=8),
    "SORA": lambda: SoRAConfig(r=2, target_modules=HEAD),
    "QUANTUM_PEFT": lambda: QuantumPEFTConfig(r=2, target_modules=HEAD),
    "QPA_PREFIX": lambda: QPAPrefixConfig(num_virtual_tokens=2, task_type="CAUSAL_LM", chunk_size=8),
}
LAYERED = [name for name in MAKE if name != "QPA_PREFIX"]
WITH_BANK = [name for name in LAYERED if name.startswith("Q")]


def lora():
    return LoraConfig(r=2, target_modules=HEAD)


def adapted(kind):
    """An adapter moved away from its start."""
    model = get_peft_model(gpt2(), MAKE[kind]()).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


# ---- methods that cannot mix


@pytest.mark.parametrize("kind", MAKE)
def test_a_method_of_another_kind_cannot_be_added(kind):
    model = adapted(kind)
    before = logits(model)
    with pytest.raises(ValueError, match="Cannot combine adapters with different peft types"):
        model.add_adapter("two", lora())
    assert list(model.peft_config) == ["default"]
    assert torch.equal(logits(model), before)

    plain = get_peft_model(gpt2(), lora())
    with pytest.raises(ValueError, match="Cannot combine adapters with different peft types"):
        plain.add_adapter("two", MAKE[kind]())
    assert list(plain.peft_config) == ["default"]


@pytest.mark.parametrize("kind", MAKE)
def test_they_are_not_for_pefts_mixed_model(kind):
    with pytest.raises(ValueError, match="is not compatible with the `PeftMixedModel`"):
        get_peft_model(gpt2(), MAKE[kind](), mixed=True)
    mixed = get_peft_model(gpt2(), lora(), mixed=True)
    with pytest.raises(ValueError, match="is not compatible with the `PeftMixedModel`"):
        mixed.add_adapter("two", MAKE[kind]())


@pytest.mark.parametrize("base_kind", ["LORA", "PREFIX_TUNING", *MAKE])
@pytest.mark.parametrize("kind", LAYERED)
def test_they_are_not_put_on_an_adapted_model(kind, base_kind):
    if base_kind in MAKE:
        model = adapted(base_kind)
    else:
        prefix = PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
        model = get_peft_model(gpt2(), lora() if base_kind == "LORA" else prefix)
    configs, before = dict(model.peft_config), logits(model)
    named = base_kind if base_kind != "QPA_PREFIX" else "PREFIX_TUNING"  # peft's name for it in memory
    with pytest.raises(ConfigError, match=rf"already holds the adapters 'default' \({named}\), and a {kind} adapter"):
        get_peft_model(model, MAKE[kind]())
    assert model.peft_config == configs
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("kind", LAYERED)
def test_nor_on_the_model_within(kind):
    model = get_peft_model(gpt2(), lora())
    with pytest.raises(ConfigError, match=r"already holds the adapters 'default' \(LORA\)"):
        get_peft_model(model.base_model.model, MAKE[kind]())
    assert type(model.peft_config["default"]) is LoraConfig
    get_peft_model(model.unload(), MAKE[kind]())  # as the message says


def test_generated_weights_need_their_first_tuner():
    model = adapted("QPA")
    with pytest.raises(ConfigError, match=r"'default' \(QPA\).*add_adapter\(name, config\)"):
        get_peft_model(model.base_model.model, MAKE["QPA"](), adapter_name="two")
    model.add_adapter("two", MAKE["QPA"]())


@pytest.mark.parametrize("kind", [kind for kind in LAYERED if kind not in WITH_BANK])
def test_transformers_may_add_a_second_one_of_a_kind_and_no_other(kind):
    base = gpt2()
    base.add_adapter(MAKE[kind](), "one")
    base.add_adapter(MAKE[kind](), "two")
    other = "SORA" if kind != "SORA" else "FEED_FORWARD"
    with pytest.raises(ConfigError, match=rf"'one' \({kind}\), 'two' \({kind}\), and a {other}"):
        base.add_adapter(MAKE[other](), "three")
    assert list(base.peft_config) == ["one", "two"]


@pytest.mark.parametrize("kind", WITH_BANK)
def test_transformers_says_that_generated_weights_need_get_peft_model(kind):
    with pytest.raises(ValueError, match=r"shared state stored on the tuner\. Please use `get_peft_model`"):
        gpt2().add_adapter(MAKE[kind]())


@pytest.mark.parametrize("kind", LAYERED)
def test_adapters_are_not_averaged(kind):
    model = adapted(kind)
    model.add_adapter("two", MAKE[kind]())
    with pytest.raises(ConfigError, match="cannot be averaged"):
        model.add_weighted_adapter(["default", "two"], [0.5, 0.5], "mean")
    assert list(model.peft_config) == ["default", "two"]


# ---- folders

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
LAST_BIAS = "base_model.lora_bank.generators.0.mapping.layers.1.bias"


def cut_off(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-20])


def weights(change):
    def damage(folder):
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return damage


def config(change):
    def damage(folder):
        data = json.loads((folder / CONFIG).read_text())
        change(data)
        (folder / CONFIG).write_text(json.dumps(data))

    return damage


def first_generator(**changes):
    return config(lambda data: data["resolved"]["generators"][0].update(changes))


BEFORE_BUILDING = {
    "cut off": (cut_off, r"adapter_model.safetensors cannot be read .*cut off or damaged. Copy it again"),
    "empty": (lambda folder: (folder / WEIGHTS).write_bytes(b""), "cannot be read .*cut off or damaged"),
    "newer format": (config(lambda data: data.update(format_version=2)), r"format 2; .* up to 1\. Install a newer"),
    "another setting": (config(lambda data: data.update(reps=3)), "its config's reps changed since it was built"),
    "another seed": (config(lambda data: data.update(seed=3)), "its config's seed changed since it was built"),
    "another rank": (config(lambda data: data.update(r=3)), "for 264 generated weights, and .* need 396"),
    "another size": (first_generator(target_size=9), "made for 9 generated weights, and this model's targets need 264"),
    "no generators": (config(lambda data: data["resolved"].update(generators=[])), "resolved is .*damaged"),
    "no such circuit": (first_generator(circuit=1), "resolved is .*damaged"),
    "no settings": (config(lambda data: data["resolved"].pop("settings")), "resolved is .*damaged"),
    "no chunks": (first_generator(chunk_size=0), "chunk size 0 is not in 1 to 264"),
    "broken circuit": (
        config(lambda data: data["resolved"]["circuits"][0].update(num_qubits=2)), "the circuit's qubits are 0 to 1"
    ),
}  # fmt: skip
WHILE_LOADING = {
    "a tensor less": (weights(lambda tensors: tensors.pop(LAST_BIAS)), r"'default': \S*layers.1.bias is missing"),
    "a tensor more": (weights(lambda tensors: tensors.update(x=torch.ones(1))), "x is not one of its tensors"),
    "another shape": (
        weights(lambda tensors: tensors.update({LAST_BIAS: torch.ones(7)})), r"layers.1.bias is \(7,\), not \(8,\)"
    ),
    "another chunk size": (first_generator(chunk_size=7), r"layers.1.weight is \(8, 16\), not \(7, 16\)"),
}  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound") / "adapter"
    adapted("QPA").save_pretrained(folder)
    return folder


def damaged(sound, tmp_path, damage):
    folder = tmp_path / "damaged"
    shutil.copytree(sound, folder)
    damage(folder)
    return folder


@pytest.mark.parametrize("case", BEFORE_BUILDING)
def test_a_damaged_folder_is_refused_before_the_model_is_touched(sound, tmp_path, case):
    damage, message = BEFORE_BUILDING[case]
    folder = damaged(sound, tmp_path, damage)
    base = gpt2()
    modules = [(name, id(module)) for name, module in base.named_modules()]
    with pytest.raises((ConfigError, CircuitError), match=message) as refusal:
        PeftModel.from_pretrained(base, folder)
    assert len(str(refusal.value)) < 400
    assert [(name, id(module)) for name, module in base.named_modules()] == modules


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.parametrize("case", WHILE_LOADING)
def test_weights_that_do_not_fit_are_refused(sound, tmp_path, case, low_cpu_mem_usage):
    damage, message = WHILE_LOADING[case]
    folder = damaged(sound, tmp_path, damage)
    with pytest.raises(ConfigError, match=message):
        PeftModel.from_pretrained(gpt2(), folder, low_cpu_mem_usage=low_cpu_mem_usage)
    model = adapted("QPA")
    with pytest.raises(ConfigError, match=message.replace("default", "two")):
        model.load_adapter(folder, "two", low_cpu_mem_usage=low_cpu_mem_usage)


def test_random_weights_are_not_left_where_sizes_may_differ(sound, tmp_path):
    folder = damaged(sound, tmp_path, WHILE_LOADING["another shape"][0])
    with pytest.raises(ConfigError, match="do not fit"):
        PeftModel.from_pretrained(gpt2(), folder, ignore_mismatched_sizes=True)


@pytest.mark.parametrize("kind", MAKE)
def test_a_tensor_that_is_missing_is_an_error_for_every_method(tmp_path, kind):
    adapted(kind).save_pretrained(tmp_path)
    name = sorted(load_file(tmp_path / WEIGHTS))[0]
    weights(lambda tensors: tensors.pop(name))(tmp_path)
    with pytest.raises(ConfigError, match="weights do not fit"):
        PeftModel.from_pretrained(gpt2(), tmp_path)


@pytest.mark.parametrize("vocabulary", [99, 101, 300])
def test_a_base_model_of_another_size_is_refused(sound, vocabulary):
    base = gpt2(vocabulary=vocabulary)
    need = 2 * (vocabulary + 32)
    with pytest.raises(ConfigError, match=f"made for 264 generated weights, and this model's targets need {need}"):
        PeftModel.from_pretrained(base, sound)


def test_a_config_that_was_read_may_be_changed_for_a_new_adapter(sound):
    read = QPAConfig.from_pretrained(sound)
    with pytest.raises(ConfigError, match="cannot be rebuilt"):
        get_peft_model(gpt2(vocabulary=300), read)
    get_peft_model(gpt2(vocabulary=300), dataclasses.replace(read, resolved=None))
    get_peft_model(gpt2(), QPAConfig.from_pretrained(sound))


def test_text_that_is_no_json_is_an_error_of_json(sound, tmp_path):
    folder = damaged(sound, tmp_path, lambda folder: (folder / CONFIG).write_text("{"))
    with pytest.raises(json.JSONDecodeError):  # peft reads the file before it knows the method
        PeftModel.from_pretrained(gpt2(), folder)


# ---- ways to load


@pytest.mark.parametrize(
    "options", [{}, {"low_cpu_mem_usage": True}, {"torch_device": "cpu"}, {"is_trainable": True}], ids=str
)
@pytest.mark.parametrize("kind", MAKE)
def test_pefts_options_of_loading(tmp_path, kind, options):
    model = adapted(kind)
    model.save_pretrained(tmp_path)
    if kind == "QPA_PREFIX" and "is_trainable" in options:
        with pytest.raises(ValueError, match="Cannot set a prompt learning adapter to trainable"):
            PeftModel.from_pretrained(gpt2(), tmp_path, **options)
        return
    loaded = PeftModel.from_pretrained(gpt2(), tmp_path, **options)
    assert torch.equal(logits(loaded), logits(model))
    assert any(p.requires_grad for p in loaded.parameters()) == ("is_trainable" in options)


@pytest.mark.slow
def test_without_the_import_peft_does_not_know_the_method(sound, tmp_path):
    gpt2().save_pretrained(tmp_path)
    code = (
        "import sys\n"
        "from peft import PeftModel\n"
        "from transformers import GPT2LMHeadModel\n"
        "base = GPT2LMHeadModel.from_pretrained(sys.argv[1])\n"
        "for load in (lambda: PeftModel.from_pretrained(base, sys.argv[2]), lambda: base.load_adapter(sys.argv[2])):\n"
        "    try: load()\n"
        "    except KeyError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path, sound], check=True, capture_output=True, text=True)
    assert done.stdout == "'QPA'\n'QPA'\n"
    assert "KeyError: 'QPA'" in (sound / "README.md").read_text()


@pytest.mark.parametrize("name", ["seed", "ansatz"])
@pytest.mark.parametrize(
    "load",
    [
        lambda folder: PeftModel.from_pretrained(gpt2(), folder),
        lambda folder: PeftModel.from_pretrained(gpt2(), folder, config=PeftConfig.from_pretrained(folder)),
        lambda folder: PeftModel.from_pretrained(gpt2(), folder, config=QPAConfig.from_pretrained(folder)),
    ],
    ids=["folder", "peft config", "own config"],
)
def test_an_edited_config_is_refused_however_it_is_read(tmp_path, name, load):
    model = get_peft_model(gpt2(), QPAConfig(r=2, target_modules=["lm_head"], chunk_size=16))
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    data = json.loads(file.read_text(encoding="utf8"))
    data[name] = {"seed": 5, "ansatz": "rx_cnot"}[name]
    file.write_text(json.dumps(data), encoding="utf8")
    with pytest.raises(ConfigError, match=f"its config's {name} changed since it was built"):
        load(tmp_path)


@pytest.mark.parametrize("config", [QPAConfig, SoRAConfig, QuantumPEFTConfig])
def test_numbers_that_are_not_finite_are_not_loaded(tmp_path, config):
    get_peft_model(gpt2(), config(r=2, target_modules=["c_attn"])).save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    first = next(iter(tensors))
    tensors[first].view(-1)[0] = float("nan")
    save_file(tensors, path)
    with pytest.raises(ConfigError, match=r"has numbers that are not finite.*file is damaged"):
        PeftModel.from_pretrained(gpt2(), tmp_path)
