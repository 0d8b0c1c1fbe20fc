"""Run by `accelerate launch`: trains with transformers' Trainer and writes what each rank saw and ended with."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Trainer, TrainingArguments

from tests.distributed.cases import Case, adapted, batch, whole

STEPS, LEARNING_RATE = 12, 0.02


def arguments(folder: Path, rows_a_step: int, ranks: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder / "trainer"), max_steps=STEPS, per_device_train_batch_size=rows_a_step // ranks,
        learning_rate=LEARNING_RATE, lr_scheduler_type="constant", logging_steps=1, save_strategy="no", report_to=[],
        use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False, seed=0,
    )  # fmt: skip


def train(folder: Path, base: str, ranks: int) -> Trainer:
    """The same rows are in every step, so that a single process can be compared with."""
    model = adapted(Case("trainer", base))
    rows = [{"input_ids": row, "labels": row} for row in batch()]
    trainer = Trainer(model=model, args=arguments(folder, len(rows), ranks), train_dataset=rows)
    trainer.train()
    return trainer


def losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def main(folder: Path, base: str) -> None:
    torch.set_num_threads(1)
    trainer = train(folder, base, ranks=2)
    rank = trainer.accelerator.process_index
    found = {"kind": trainer.accelerator.distributed_type.value, "ranks": trainer.accelerator.num_processes}
    tensors = {name: whole(p) for name, p in trainer.model.named_parameters() if p.requires_grad}
    save_file(tensors, folder / f"{rank}.safetensors")
    trainer.save_model(str(folder / "adapter"))
    (folder / f"{rank}.json").write_text(json.dumps({**found, "losses": losses(trainer)}), encoding="utf8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
