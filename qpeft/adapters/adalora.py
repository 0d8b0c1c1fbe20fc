"""What AdaLoRA (arXiv 2303.10512) needs of a training loop: peft's tuner leaves the allocation of ranks to it."""

from __future__ import annotations

from typing import Any

import torch
from peft import AdaLoraModel
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class RankAllocation(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Reallocates the ranks after each optimiser step, and keeps the singular vectors near orthogonal.

    peft adds the regulariser to the model's own loss, which a loss function of one's own does not see; here its
    gradient is set once a step, so it is clipped with the batch's and does not show in the logged loss. A resumed run
    starts the averages of the importance scores anew, since peft does not save them.
    """

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        tuner = _tuner(kwargs["model"])
        vectors = _singular_vectors(tuner)
        penalty = tuner.peft_config[tuner.trainable_adapter_name].orth_reg_weight * orthogonality(vectors)
        for vector, gradient in zip(vectors, torch.autograd.grad(penalty, vectors), strict=True):
            vector.grad = gradient

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        _tuner(kwargs["model"]).update_and_allocate(state.global_step)


def orthogonality(vectors: list[nn.Parameter]) -> Tensor:
    """The mean of ||V V^T - 1||_F over the matrices, each with its vectors along the shorter axis (eq. 4).

    Example:
        >>> orthogonality([nn.Parameter(torch.eye(2, 5)), nn.Parameter(torch.zeros(5, 1))]).item()
        0.5
    """
    rows = [v if v.shape[0] <= v.shape[1] else v.T for v in vectors]
    norms = [torch.linalg.norm(v @ v.T - torch.eye(len(v), dtype=v.dtype, device=v.device)) for v in rows]
    return torch.stack(norms).mean()


def _tuner(model: Any) -> Any:
    return next(module for module in model.modules() if isinstance(module, AdaLoraModel))


def _singular_vectors(tuner: Any) -> list[nn.Parameter]:
    name = tuner.trainable_adapter_name
    return [
        parameter
        for key, parameter in tuner.model.named_parameters()
        if key.endswith((f"lora_A.{name}", f"lora_B.{name}")) and parameter.requires_grad
    ]
