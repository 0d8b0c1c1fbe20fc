"""What the worker runs on two ranks and the tests run in one process."""

from dataclasses import dataclass
from itertools import product

import torch
from peft import get_peft_model
from torch.distributed.tensor import DTensor

from qpeft.adapters import QPAConfig, QuantumPEFTConfig
from tests.tiny_models import gpt2, llama, shake

BASES = {
    "gpt2": (gpt2, ["c_attn", "lm_head"], "transformer.h"),
    "llama": (llama, ["q_proj", "v_proj", "down_proj"], "model.layers"),
}


@dataclass(frozen=True)
class Case:
    strategy: str
    base: str
    engine: str = "exact"
    checkpointing: bool = False
    method: str = "qpa"

    @property
    def name(self):
        engine = self.engine.replace(":", "-")
        return f"{self.strategy}_{self.base}_{self.method}_{engine}" + ("_checkpointing" if self.checkpointing else "")

    def layers(self, model):
        """The decoder layers, which are sharded one by one."""
        return model.base_model.model.get_submodule(BASES[self.base][2])


SAMPLING = "exact:20x"
CASES = [
    Case(strategy, base, engine, checkpointing, method)
    for strategy, base in product(("ddp", "fsdp2", "accelerate"), BASES)
    for engine, checkpointing, method in (
        ("exact", False, "qpa"), (SAMPLING, False, "qpa"), ("exact", True, "qpa"), ("exact", False, "quantum-peft"),
    )
]  # fmt: skip


def batch():
    return torch.randint(1, 100, (4, 8), generator=torch.Generator().manual_seed(3))


def adapted(case: Case):
    """The model, in double precision, with an adapter that has left its start."""
    make, targets, _ = BASES[case.base]
    options = {"r": 2, "target_modules": targets, "task_type": "CAUSAL_LM"}
    if case.method == "quantum-peft":
        config = QuantumPEFTConfig(**options)
    else:
        config = QPAConfig(chunk_size=64, engine=case.engine, **options)
    model = shake(get_peft_model(make(), config)).double().train()
    if case.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def loss_of(model, ids):
    return model(input_ids=ids, labels=ids, use_cache=False).loss


def step(model):
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()


def whole(tensor):
    """A tensor of all ranks, from its shards."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone().contiguous()
