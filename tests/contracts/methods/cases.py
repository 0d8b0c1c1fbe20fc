"""The table of the contract: every method of ours, with what it is able to do, on every kind of model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from qpeft.adapters import (
    AdditivePrefixConfig,
    FeedForwardConfig,
    HoulsbyConfig,
    PfeifferConfig,
    QPAAdditivePrefixConfig,
    QPAConfig,
    QPAFeedForwardConfig,
    QPAPrefixConfig,
    QuantumPEFTConfig,
    SoRAConfig,
)  # fmt: skip
from tests.contracts.methods.frames import Frames, Rings
from tests.tiny_models import IDS, PIXELS, bert, gpt2, llama, vit

GENERATOR = ("mapping.layers.0.bias", "mapping.layers.0.weight", "mapping.layers.1.bias", "mapping.layers.1.weight",
             "source.angles")  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A model to adapt."""

    name: str
    make: Callable[[], nn.Module]
    targets: tuple[str, ...]
    inputs: dict[str, Tensor]  # of two rows
    labels: Tensor
    options: dict[str, Any]  # of every config
    fully_trained: tuple[str, ...] = ()  # in a file, what `modules_to_save` adds


WORDS, CLASSES = {"input_ids": IDS}, torch.tensor([2, 0])
CLASSIFIER = ("classifier.bias", "classifier.weight")
GPT2 = Model("gpt2", partial(gpt2, layers=1), ("c_attn", "lm_head"), WORDS, IDS, {"task_type": "CAUSAL_LM"})
LLAMA = Model(
    "llama",
    partial(llama, layers=1),
    ("q_proj", "v_proj", "down_proj", "lm_head"),
    WORDS,
    IDS,
    {"task_type": "CAUSAL_LM"},
)
BERT = Model("bert", bert, ("query", "value", "output.dense"), WORDS, CLASSES, {"task_type": "SEQ_CLS"}, CLASSIFIER)
VIT = Model(
    "vit", vit, ("q_proj", "v_proj", "fc1"), {"pixel_values": PIXELS}, CLASSES, {"modules_to_save": ["classifier"]},
    CLASSIFIER,
)  # fmt: skip
MODELS = (GPT2, LLAMA, BERT, VIT)


@dataclass(frozen=True)
class Method:
    """A method.

    Attributes:
        name: In the tests' names.
        config: Its config.
        options: What makes the config this method.
        saved: The tensors of a file, after a layer's name; of a method with generators, after a generator's.
        bank: Name of the bank in a file; None for a method that stores its weights.
        frames: What the bank is of Quantum-PEFT.
        merges: Whether it can be merged.
        identity: Whether it starts as the identity.
        mixes: Whether rows of a batch can go through different adapters.
        adds: Whether several adapters can be active.
        models: What it can adapt.
        targeted: Whether the config takes targets; else it chooses its own.
    """

    name: str
    config: type[PeftConfig]
    options: dict[str, Any] = field(default_factory=dict)
    saved: tuple[str, ...] = GENERATOR
    bank: str | None = None
    frames: Frames | None = None
    merges: bool = False
    identity: bool = True
    mixes: bool = False
    adds: bool = True
    models: tuple[Model, ...] = MODELS
    targeted: bool = True

    @property
    def generates(self) -> bool:
        return self.bank is not None

    @property
    def wraps_layers(self) -> bool:
        """Whether it is a tuner of layers, and no prefix."""
        return self.config is not QPAPrefixConfig


TINY = {"chunk_size": 16, "reps": 1}
LORA = {"r": 2, **TINY}
DORA = {"use_dora": True, **LORA}
BIASED = tuple(f"{part}.{tensor}" for part in ("ffa_down", "ffa_up") for tensor in ("bias", "weight"))
UNBIASED = ("ffa_down.weight", "ffa_up.weight")
LORA_BANK, FFA_BANK, POSITIONS_BANK = (f"base_model.{name}_bank" for name in ("lora", "ffa", "additive_prefix"))
QUANTUM = {"bank": LORA_BANK, "merges": True, "mixes": True}
METHODS = (
    Method("qpa", QPAConfig, LORA, bank=LORA_BANK, merges=True, mixes=True),
    Method("qpa-layer", QPAConfig, {"scope": "layer", **LORA}, bank=LORA_BANK, merges=True, mixes=True),
    Method("qpa-paper", QPAConfig, {"start": "paper", **LORA}, bank=LORA_BANK, merges=True, mixes=True, identity=False),
    Method("qpa-dora", QPAConfig, DORA, bank=LORA_BANK, merges=True),
    Method("qpa-dora-absolute", QPAConfig, {"start": "paper", **DORA}, bank=LORA_BANK, merges=True, identity=False),
    Method("qpa-dora-in", QPAConfig, {"dora_magnitude_size": "in", **DORA}, bank=LORA_BANK, merges=True),
    Method("qpa-ffa", QPAFeedForwardConfig, {"bottleneck": 2, **TINY}, bank=FFA_BANK),
    Method("qpa-additive-prefix", QPAAdditivePrefixConfig, {"length": 5, **TINY}, bank=POSITIONS_BANK),
    Method(
        "qpa-prefix", QPAPrefixConfig, {"num_virtual_tokens": 3, **TINY}, bank="prompt_encoder.bank", identity=False,
        adds=False, models=(GPT2, LLAMA, BERT), targeted=False,
    ),
    Method("ffa", FeedForwardConfig, saved=UNBIASED),
    Method("houlsby", HoulsbyConfig, saved=BIASED, targeted=False),
    Method("pfeiffer", PfeifferConfig, saved=BIASED, targeted=False),
    Method("additive-prefix", AdditivePrefixConfig, {"length": 5}, saved=("additive_prefix.weight",)),
    Method(
        "sora", SoRAConfig, {"r": 2}, saved=("lora_A.gate", "lora_A.ungated", "lora_B.weight"), merges=True, mixes=True,
    ),
    Method("quantum-pauli", QuantumPEFTConfig, {"r": 2}, frames=Frames(), **QUANTUM),
    Method(
        "quantum-taylor", QuantumPEFTConfig, {"r": 2, "parametrization": "taylor", "intrinsic_rank": 1, "order": 3},
        frames=Frames("triangle", intrinsic_rank=1), models=(GPT2, BERT), **QUANTUM,
    ),
    Method(
        "quantum-cayley", QuantumPEFTConfig, {"r": 2, "parametrization": "cayley"}, frames=Frames("triangle"),
        models=(LLAMA,), **QUANTUM,
    ),
    Method(
        "quantum-rademacher", QuantumPEFTConfig, {"r": 2, "diagonal": "rademacher"}, frames=Frames(keeps_initial=True),
        models=(GPT2, VIT), **QUANTUM,
    ),
    Method(
        "quantum-square", QuantumPEFTConfig, {"r": 2, "parametrization": "householder", "measurement": "square"},
        frames=Frames("triangle", keeps_initial=True), models=(BERT,), **QUANTUM,
    ),
    Method(
        "quantum-4-bit", QuantumPEFTConfig, {"r": 2, "other_sizes": "pad", "bits": 4, "group_size": 8},
        frames=Frames("pad", bits=4), models=(GPT2, BERT), **QUANTUM,
    ),
    Method(
        "quantum-adaptive-bits", QuantumPEFTConfig,
        {"r": 2, "parametrization": "cayley", "bits": 3, "kappa": 1.0, "group_size": 8},
        frames=Frames("triangle", bits=3, adaptive=True), models=(LLAMA,), **QUANTUM,
    ),
    Method(
        "quantum-ring", QuantumPEFTConfig, {"r": 2, "network": "tensor_ring", "parametrization": "cayley"},
        frames=Rings("triangle"), models=(GPT2,), **QUANTUM,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A method on a model."""

    method: Method
    model: Model

    def __str__(self) -> str:
        return f"{self.method.name}-{self.model.name}"

    def config(self, **options: Any) -> PeftConfig:
        targets = {"target_modules": list(self.model.targets)} if self.method.targeted else {}
        return self.method.config(**{**self.model.options, **targets, **self.method.options, **options})

    def adapted(self, base: nn.Module | None = None) -> PeftModel:
        """With an adapter at its start, in evaluation mode."""
        base = self.model.make() if base is None else base
        torch.manual_seed(0)
        return get_peft_model(base, self.config()).eval()

    def layers(self) -> dict[str, tuple[int, int]]:
        """The adapted layers and (out_features, in_features) of each; none for a prefix."""
        base = self.model.make()
        names = self.adapted().base_model.targeted_module_names if self.method.wraps_layers else ()
        shapes = {name: tuple(base.get_submodule(name).weight.shape) for name in names}
        return {n: s[::-1] if isinstance(base.get_submodule(n), Conv1D) else s for n, s in shapes.items()}

    def in_file(self) -> dict[str, int | None]:
        """The tensors of a file and, where arithmetic tells, how many numbers each has."""
        inner = "base_model.model." if self.method.wraps_layers else "base_model."
        base = self.model.make()
        head: dict[str, int | None] = {
            f"{inner}{name}": base.get_parameter(name).numel() for name in self.model.fully_trained
        }
        if self.method.frames is not None:
            numbers = self.method.frames.in_file(list(self.layers().values())).items()
            return head | {f"{self.method.bank}.{name}": number for name, number in numbers}
        parts = [f"{inner}{layer}" for layer in self.layers()]
        if self.method.generates:
            parts = [f"{self.method.bank}.generators.{number}" for number in range(self.generations())]
        return head | {f"{part}.{name}": None for part in parts for name in self.method.saved}

    def generations(self) -> int:
        """How many circuits or calls of frames make the weights of one pass."""
        if self.method.frames is not None:
            return self.method.frames.calls(list(self.layers().values()))
        if not self.method.generates:
            return 0
        return len(self.layers()) if self.method.options.get("scope") == "layer" else 1

    def trained(self) -> PeftModel:
        """With an adapter away from its start."""
        return moved(self.adapted())

    def two(self) -> PeftModel:
        """With two adapters, the first active."""
        model = self.trained()
        model.add_adapter("two", self.config(**{"seed": 7} if hasattr(self.method.config, "seed") else {}))
        return moved(model, "two", seed=2).eval()

    @torch.no_grad()
    def logits(self, model: nn.Module, **others: Any) -> Tensor:
        return self.call(model, **others)

    def call(self, model: nn.Module, **others: Any) -> Tensor:
        """(2, ..., classes), with gradients."""
        torch.manual_seed(0)  # some methods draw at random when they train: here always the same
        logits: Tensor = model(**{**self.model.inputs, **others}).logits
        return logits

    def loss(self, model: nn.Module, rows: slice = slice(None)) -> Tensor:
        """The mean over rows, of the model's own loss."""
        torch.manual_seed(0)
        inputs = {name: tensor[rows] for name, tensor in self.model.inputs.items()}
        loss: Tensor = model(**inputs, labels=self.model.labels[rows]).loss
        return loss

    def gradients(self, model: nn.Module) -> dict[str, Tensor]:
        """Of a training step on all rows, by parameter."""
        model.zero_grad()
        self.loss(model.train()).backward()
        return gradients(model)


def adapter_parameters(model: nn.Module, adapter: str = "default") -> dict[str, nn.Parameter]:
    """What belongs to an adapter, `modules_to_save` included."""
    return {name: p for name, p in model.named_parameters() if f".{adapter}." in name}


@torch.no_grad()
def moved(model: Any, adapter: str = "default", seed: int = 1) -> Any:
    """The model after random changes of an adapter, as after some training."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter_parameters(model, adapter).values():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Those that are there, by parameter."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def differ(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() > 1e-3)


def every(condition: Callable[[Case], bool] = lambda case: True, slow: tuple[Model, ...] = ()) -> Any:
    """Parametrises a test over the cases that meet a condition; those of some models may be slow tests."""
    cases = [case for method in METHODS for model in method.models if condition(case := Case(method, model))]
    marked = [pytest.param(case, marks=[pytest.mark.slow] if case.model in slow else []) for case in cases]
    return pytest.mark.parametrize("case", marked, ids=str)
