"""QPA-LoRA: one circuit and one mapping network generate the LoRA factors of all target layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from qpeft.adapters.config import QPAConfig
from qpeft.adapters.generated import Factors
from qpeft.adapters.peft_internals import GeneratedLoraModel, QpeftType, Shape, register
from qpeft.errors import ConfigError
from qpeft.generators import QPAGenerator, QPASpec
from qpeft.generators.philox import checksum, uniform
from qpeft.qcircuits import Engine


class QPALoraBank(nn.Module):
    """Cuts the generated vector into the layers' factors: for each target B (out x r), then A (r x in), row-major.

    With the start "identity" a frozen random factor U(-1/sqrt(in), 1/sqrt(in)) is added to each A while B is generated
    alone: the generator's zero last layer then makes every update zero at the start, and B has a gradient at once.
    The frozen factor is not saved; it is rebuilt from its seed.

    Args:
        spec: Sizes of the generator.
        targets: Layer name to ((out_features, in_features), rank).
        engine: Runs the circuit.
        frozen_seed: Seed of the frozen factor; None for no frozen factor (the paper's start).
    """

    frozen: Tensor

    def __init__(
        self, spec: QPASpec, targets: dict[str, tuple[Shape, int]], engine: Engine, frozen_seed: int | None
    ) -> None:
        super().__init__()
        self.targets = targets
        self.generator = QPAGenerator(spec, engine)
        # A buffer in any case, since it tells the device; a single zero broadcasts.
        frozen = torch.zeros(1) if frozen_seed is None else _frozen_factor(targets, frozen_seed)
        self.register_buffer("frozen", frozen, persistent=False)

    @property
    def num_frozen(self) -> int:
        """Numbers that do not train but are needed: the frozen random factor, and a frozen circuit's angles."""
        factor = sum(rank * fan_in for (_, fan_in), rank in self.targets.values()) if self.frozen.numel() > 1 else 0
        return factor + sum(buffer.numel() for name, buffer in self.named_buffers() if name.endswith("angles"))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Follows the model to its device but not to half precision, in which a circuit would lose its digits."""

        def keep(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype in (torch.float32, torch.float64) else tensor.to(moved.device)

        return super()._apply(keep, recurse)  # type: ignore[no-untyped-call]

    def forward(self) -> dict[str, Factors]:
        """The factors of every layer."""
        vector = self.generator()
        vector = vector + self.frozen.to(vector.dtype)
        factors, place = {}, 0
        for name, ((fan_out, fan_in), rank) in self.targets.items():
            b_end, a_end = place + fan_out * rank, place + rank * (fan_out + fan_in)
            factors[name] = Factors(A=vector[b_end:a_end].view(rank, fan_in), B=vector[place:b_end].view(fan_out, rank))
            place = a_end
        return factors


def _frozen_factor(targets: dict[str, tuple[Shape, int]], seed: int) -> Tensor:
    """Zeros where B stands, U(-1/sqrt(in), 1/sqrt(in)) where A stands, in the bank's layout."""
    draws = uniform(seed, sum(rank * fan_in for (_, fan_in), rank in targets.values()))
    parts, place = [], 0
    for (fan_out, fan_in), rank in targets.values():
        parts += [torch.zeros(fan_out * rank), draws[place : place + rank * fan_in] / math.sqrt(fan_in)]
        place += rank * fan_in
    return torch.cat(parts)


class QPAModel(GeneratedLoraModel):
    """The tuner behind `QPAConfig`."""

    def build_bank(self, config: QPAConfig, targets: dict[str, tuple[Shape, int]]) -> nn.Module:
        spec = config.spec([shape for shape, _ in targets.values()])
        frozen_seed = config.seed if config.start == "identity" else None
        bank = QPALoraBank(spec, targets, config.build_engine(), frozen_seed)
        found = checksum(bank.frozen)
        saved = config.saved_build(spec.target_size)
        if saved is not None and saved["frozen_checksum"] != found:
            raise ConfigError(
                f"the frozen factor rebuilt from seed {config.seed} has checksum {found}; the adapter was trained with "
                f"{saved['frozen_checksum']}. The adapter's config is damaged, or this numpy draws other numbers"
            )
        config.resolved = {
            "target_size": spec.target_size, "chunk_size": spec.chunk_size, "num_chunks": spec.num_chunks,
            "num_qubits": spec.num_qubits, "num_parameters": spec.num_parameters, "circuit": spec.circuit.to_dict(),
            "frozen_checksum": found, "settings": config.settings(),
        }  # fmt: skip
        return bank

    def bank(self, adapter_name: str = "default") -> QPALoraBank:
        """The module that generates an adapter's weights."""
        bank: Any = self.lora_bank[adapter_name]
        assert isinstance(bank, QPALoraBank)
        return bank


register(QpeftType.QPA, QPAConfig, QPAModel)
