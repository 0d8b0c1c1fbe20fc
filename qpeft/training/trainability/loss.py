"""The loss of QPA on a text, as a function of the circuit's angles.

The generated update changes the output head alone, so the loss depends on the adapter only through

    logits = h W^T + (alpha / r) h A^T B^T

with the hidden states h before the head, which are found once. Initialisations run as one batch, each with angles and
a mapping network of its own: the engine takes a batch of angles, and what follows it is vectorised over the networks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from qpeft.adapters.bank import QPABank
from qpeft.adapters.config import QPAConfig
from qpeft.adapters.lora import lora_pieces
from qpeft.adapters.method_table import METHODS
from qpeft.errors import ConfigError
from qpeft.options import whole_numbers
from qpeft.qcircuits import Circuit, Engine
from qpeft.training.config import DataOptions, ModelOptions, TrainConfig
from qpeft.training.data import IGNORED
from qpeft.training.finetune import prepare
from qpeft.training.trainability.config import LOSS, LossOptions
from qpeft.training.trainability.gradients import BATCH_BYTES, DTYPE, rows_of_batch

HEAD = "lm_head"
ANGLES = "generators.0.source.angles"  # a bank's parameter
LOGITS_HELD = 6  # tensors as large as the logits, at the peak of a gradient
TRAINING_BATCHES = 8  # that the steps before the gradient take in turn


@dataclass(frozen=True, eq=False)
class TextBatch:
    """An example of a text before the output head.

    Attributes:
        hidden: (T, H) hidden states.
        logits: (T, V) of the model as it is.
        targets: (T,) next tokens.
    """

    hidden: Tensor
    logits: Tensor
    targets: Tensor

    def loss(self, weights: dict[str, Tensor], scale: float) -> Tensor:
        """Nats per token with the update scale * B A of the head."""
        update = self.hidden @ weights["lora_A"].T @ weights["lora_B"].T
        return F.cross_entropy(self.logits + scale * update, self.targets)


@dataclass(frozen=True, eq=False)
class TextLoss:
    """An objective: the loss on the first batch, after some training steps on the others.

    Its variance is over random angles and random mapping networks together.

    Attributes:
        batches: Batches of the text.
        options: The adapter's settings.
        steps: Steps of AdamW, of angles and mapping network, before the gradient is taken.
        seed: Decides the mapping networks.
        title: First part of its name.
    """

    batches: Sequence[TextBatch]
    options: LossOptions
    steps: int
    seed: int
    title: str = LOSS

    @property
    def name(self) -> str:
        return f"{self.title}-{self.steps}"

    @property
    def settings(self) -> dict[str, Any]:
        asked = self.options
        return {
            "model": asked.model, "data": asked.data, "context": asked.context, "rank": asked.rank,
            "preset": asked.preset, "transform": asked.transform, "start": asked.start,
            "learning_rate": self.learning_rate, "mapping_seed": self.seed, "batches": self._checksum,
        }  # fmt: skip

    @cached_property
    def _checksum(self) -> str:
        """Of the batches: a folder's model or text may change."""
        found = hashlib.sha256()
        for batch in self.batches:
            for tensor in (batch.hidden, batch.logits, batch.targets):
                found.update(tensor.numpy().tobytes())
        return found.hexdigest()

    @property
    def learning_rate(self) -> float:
        given = self.options.learning_rate
        return METHODS["qpa"].usual_learning_rate({"preset": self.options.preset}) if given is None else given

    @property
    def _shape(self) -> tuple[int, int]:
        """Of the head: (V, H)."""
        return self.batches[0].logits.shape[1], self.batches[0].hidden.shape[1]

    def config(self, circuit: Circuit) -> QPAConfig:
        """The adapter whose generator has as many chunks as the circuit has basis states, or the fewest less."""
        rank, size = self.options.rank, self.options.rank * sum(self._shape)
        asked = self.options
        return QPAConfig(
            r=rank, lora_alpha=2 * rank, target_modules=[HEAD], preset=asked.preset, transform=asked.transform,
            start=asked.start, ansatz=circuit, chunk_size=-(-size >> circuit.num_qubits), seed=self.seed,
        )  # fmt: skip

    def check(self, circuit: Circuit) -> None:
        """Raises `ConfigError` if the head has too few weights for the circuit's basis states."""
        size = self.options.rank * sum(self._shape)
        if size <= 2 ** (circuit.num_qubits - 1):
            raise ConfigError(
                f"{circuit.num_qubits} qubits are too many for {size:,} generated weights, at least one a basis state: "
                f"at most {(size - 1).bit_length()} qubits. Give fewer, or a higher --rank"
            )

    def gradients(self, engine: Engine, circuit: Circuit, angles: Tensor, is_noisy: bool) -> Tensor:
        """See `Objective.gradients`."""
        logits = LOGITS_HELD * DTYPE.itemsize * max(batch.logits.numel() for batch in self.batches)
        rows = max(1, min(rows_of_batch(circuit, is_noisy), BATCH_BYTES // logits))
        return torch.cat([
            self._gradients(engine, circuit, part, number * rows) for number, part in enumerate(angles.split(rows))
        ])  # fmt: skip

    def bank(self, engine: Engine, circuit: Circuit, angles: Tensor, number: int) -> QPABank:
        """The generator of one initialisation."""
        config = self.config(circuit)
        pieces = lora_pieces(config, {HEAD: self._shape})
        own = np.random.SeedSequence([self.seed, circuit.num_qubits, circuit.num_parameters, number])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(own.generate_state(1)[0]))
            frozen = self.seed if self.options.start == "identity" else None
            bank = QPABank(config.specs(pieces), pieces, engine, frozen).to(DTYPE)
        with torch.no_grad():
            bank.get_parameter(ANGLES).copy_(angles)
        return bank

    def _gradients(self, engine: Engine, circuit: Circuit, angles: Tensor, first: int) -> Tensor:
        """dL/dtheta of initialisations `first`, `first` + 1, ...: (n, P) -> (n, P)."""
        banks = [self.bank(GivenProbabilities(), circuit, row, first + place) for place, row in enumerate(angles)]
        names = dict(banks[0].named_parameters())
        numbers = {
            name: torch.stack([bank.get_parameter(name).detach() for bank in banks]).requires_grad_() for name in names
        }  # (n, ...) each
        optimiser = torch.optim.AdamW(numbers.values(), lr=self.learning_rate, weight_decay=0.0)

        def losses(batch: TextBatch) -> Tensor:
            probabilities = engine.probabilities(circuit, numbers[ANGLES])

            def loss(given: dict[str, Tensor]) -> Tensor:
                return batch.loss(dict(functional_call(banks[0], given)[HEAD]), scale=2.0)  # alpha / r

            return torch.vmap(loss)({**numbers, ANGLES: probabilities})

        for step in range(self.steps):
            optimiser.zero_grad()
            losses(self.batches[1 + step % (len(self.batches) - 1)]).sum().backward()
            _clip(list(numbers.values()))
            optimiser.step()
        (found,) = torch.autograd.grad(losses(self.batches[0]).sum(), numbers[ANGLES])
        return found


class GivenProbabilities(Engine):
    """An engine whose "angles" are the probabilities: they were found before, for a batch of circuits at once."""

    def check(self, circuit: Circuit, dtype: torch.dtype = DTYPE, device: torch.device | str = "cpu") -> None:
        """The engine that finds them has checked the circuit."""

    def probabilities(self, circuit: Circuit, angles: Tensor) -> Tensor:
        return angles


def _clip(numbers: Sequence[Tensor]) -> None:
    """Cuts the norm of each initialisation's gradient to 1, as `torch.nn.utils.clip_grad_norm_` does for one."""
    gradients = [tensor.grad for tensor in numbers if tensor.grad is not None]
    squares = sum((gradient.flatten(1).square().sum(1) for gradient in gradients), torch.zeros(()))
    shrinks = (1 / (squares.sqrt() + 1e-6)).clamp(max=1)
    for gradient in gradients:
        gradient.mul_(shrinks.view(-1, *[1] * (gradient.dim() - 1)))


def text_losses(options: LossOptions, seed: int = 0, title: str = LOSS) -> list[TextLoss]:
    """An objective for each number of steps in `options.steps`, of one model and text.

    Args:
        options: Model, text, adapter and steps.
        seed: Decides the mapping networks.
        title: First part of the objectives' names, which tells them from those of other options.

    Raises:
        ConfigError: A model or text that cannot be loaded, a text that is too short, or a model whose logits are not
            just what its output head gives.
    """
    config = TrainConfig(
        model=ModelOptions(model=options.model), data=DataOptions(data=options.data, context=options.context)
    )
    prepared = prepare(config)
    numbers = whole_numbers("steps", options.steps, 0)
    needed = 1 + (TRAINING_BATCHES if max(numbers) else 0)
    if len(prepared.train) < min(needed, 2):
        raise ConfigError(
            f"the text has {len(prepared.train)} example(s) of {options.context} tokens; training steps need another "
            "than the one the gradient is taken on. Give a longer text or a smaller --context"
        )
    inputs, targets = prepared.train.inputs[:needed], prepared.train.targets[:needed]
    batches = [before_head(prepared.model, *pair) for pair in zip(inputs, targets, strict=True)]
    return [TextLoss(batches, options, steps, seed, title) for steps in numbers]


@torch.no_grad()
def before_head(model: Any, inputs: Tensor, targets: Tensor) -> TextBatch:
    """One forward pass of the base model: inputs (T,) and next tokens (T,) -> what its head is given and gives.

    Raises:
        ConfigError: The model has no linear output head, or changes what the head gives.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ConfigError(f"{type(model).__name__} has no linear output head; give a causal language model that has")
    seen: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        logits = model.eval()(input_ids=inputs[None].to(head.weight.device)).logits[0]
    finally:
        handle.remove()
    if not torch.allclose(head(seen[0])[0], logits, rtol=1e-3, atol=1e-3):
        raise ConfigError(
            f"{type(model).__name__} changes its logits after the output head (it caps or scales them); the gradient "
            "through the head alone would be another. Give a model that does not"
        )
    counted = targets != IGNORED
    hidden = seen[0][0].cpu().to(DTYPE)
    return TextBatch(hidden[counted], logits.cpu().to(DTYPE)[counted], targets[counted])
