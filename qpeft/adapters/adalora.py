"""What AdaLoRA (arXiv 2303.10512) needs of a training loop: peft's tuner leaves the allocation of ranks to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from qpeft.adapters.checkpoints import CheckpointPart

AVERAGES = ("exp_avg_ipt", "exp_avg_unc")  # of the importance scores, in peft's allocator


class RankAllocation(CheckpointPart):
    """Reallocates the ranks after each optimiser step, and keeps the singular vectors near orthogonal.

    peft adds the regulariser to the model's own loss, which a loss function of one's own does not see; here its
    gradient is set once a step, so it is clipped with the batch's and does not show in the logged loss.

    While it trains, a checkpoint holds the adapter with all its ranks, since one that was set to zero may come back,
    and in `file` what peft's allocator knows. A resumed run is then the uninterrupted one. After training peft
    saves the ranks that are left.
    """

    file = "rank_allocation.safetensors"

    def __init__(self) -> None:
        self._ranks: dict[str, list[bool]] | None = None  # which are kept; peft saves these alone if its config says so

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        if state.global_step:
            self._hide_ranks(_tuner(kwargs["model"]))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        tuner = _tuner(kwargs["model"])
        vectors = _singular_vectors(tuner)
        penalty = _config(tuner).orth_reg_weight * orthogonality(vectors)
        for vector, gradient in zip(vectors, torch.autograd.grad(penalty, vectors), strict=True):
            vector.grad = gradient

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        tuner = _tuner(kwargs["model"])
        _config(tuner).rank_pattern = self._ranks
        tuner.update_and_allocate(state.global_step)
        self._hide_ranks(tuner)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        _config(_tuner(kwargs["model"])).rank_pattern = self._ranks

    def write(self, model: nn.Module, path: Path) -> None:
        allocator = _tuner(model).rankallocator
        averages = {
            f"{kind}/{name}": average for kind in AVERAGES for name, average in getattr(allocator, kind).items()
        }
        save_file(averages, path, metadata={"ranks": json.dumps(self._ranks)})

    def read(self, model: nn.Module, path: Path) -> None:
        tuner = _tuner(model)
        parameters = dict(tuner.model.named_parameters())
        allocator = tuner.rankallocator
        allocator.reset_ipt()
        with safe_open(path, framework="pt") as saved:
            self._ranks = json.loads(saved.metadata()["ranks"])
            averages = {key: saved.get_tensor(key) for key in saved.keys()}  # noqa: SIM118 (no dict)
        for key, average in averages.items():
            kind, name = key.split("/")
            getattr(allocator, kind)[name] = average.to(parameters[name].device)
            allocator.ipt[name] = torch.zeros_like(parameters[name])  # peft starts averages without one anew
        _config(tuner).rank_pattern = self._ranks

    def _hide_ranks(self, tuner: Any) -> None:
        self._ranks, _config(tuner).rank_pattern = _config(tuner).rank_pattern, None


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


def _config(tuner: Any) -> Any:
    return tuner.peft_config[tuner.trainable_adapter_name]


def _singular_vectors(tuner: Any) -> list[nn.Parameter]:
    name = tuner.trainable_adapter_name
    return [
        parameter
        for key, parameter in tuner.model.named_parameters()
        if key.endswith((f"lora_A.{name}", f"lora_B.{name}")) and parameter.requires_grad
    ]
