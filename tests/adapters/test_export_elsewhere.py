"""Exports in a process that never imports this package."""

import json
import subprocess
import sys

import pytest
import torch
from peft import LoHaConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file

from qpeft.adapters import QPAConfig, QPAPrefixConfig, SoRAConfig
from qpeft.adapters.export import export_adapter
from tests.tiny_models import IDS, llama, logits

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
TARGETS = {"target_modules": ["q_proj", "down_proj", "lm_head"], "task_type": "CAUSAL_LM"}
CASES = {
    "qpa": (QPAConfig(r=2, chunk_size=32, **TARGETS), "lora"),
    "qpa-dora": (QPAConfig(r=2, chunk_size=32, use_dora=True, **TARGETS), "lora"),
    "sora": (SoRAConfig(r=3, **TARGETS), "lora"),
    "dora": (LoraConfig(r=2, use_dora=True, **TARGETS), "lora"),
    "qpa-merged": (QPAConfig(r=2, chunk_size=32, **TARGETS), "merged"),
    "loha": (LoHaConfig(r=2, **TARGETS), "merged"),
    "qpa-prefix": (QPAPrefixConfig(num_virtual_tokens=3, chunk_size=32, task_type="CAUSAL_LM"), "prefix"),
}
PROGRAM = """
import json, sys
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

folder, forms, ids = sys.argv[1], json.loads(sys.argv[2]), torch.tensor(json.loads(sys.argv[3]))
load = AutoModelForCausalLM.from_pretrained
found = {}
for name, form in forms.items():
    if form == "merged":
        models = {name: load(f"{folder}/{name}")}
    else:
        models = {name: PeftModel.from_pretrained(load(f"{folder}/base"), f"{folder}/{name}")}
    if form == "lora":
        models[f"{name} by transformers"] = load(f"{folder}/base")
        models[f"{name} by transformers"].load_adapter(f"{folder}/{name}")
    with torch.no_grad():
        found |= {key: model.eval()(input_ids=ids).logits for key, model in models.items()}
save_file(found, f"{folder}/logits.safetensors")
assert "qpeft" not in {name.split(".")[0] for name in sys.modules}
"""


@pytest.mark.slow
def test_plain_peft_and_transformers_give_the_same_logits_in_a_process_without_qpeft(tmp_path):
    llama().save_pretrained(tmp_path / "base")
    expected = {}
    for name, (config, form) in CASES.items():
        torch.manual_seed(0)
        model = get_peft_model(llama(), config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape))
        export_adapter(model, tmp_path / name, form)
        expected[name] = logits(model)
        if form == "lora":
            expected[f"{name} by transformers"] = expected[name]
    forms = json.dumps({name: form for name, (_, form) in CASES.items()})
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), forms, json.dumps(IDS.tolist())],
        check=True, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    found = load_file(tmp_path / "logits.safetensors")
    assert found.keys() == expected.keys()
    for name, reference in expected.items():
        torch.testing.assert_close(found[name], reference, rtol=1e-4, atol=1e-4)
        assert (reference - logits(llama())).abs().max() > 1e-2
