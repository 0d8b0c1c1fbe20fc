"""The training loop: transformers' `Trainer` with a run's settings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback

from qpeft.adapters.checkpoints import CheckpointPart
from qpeft.errors import ConfigError, RunError
from qpeft.training.config import TrainConfig
from qpeft.training.facts import learning_rate
from qpeft.training.tasks import Prepared, task_for


def new_trainer(
    model: PeftModel, prepared: Prepared, config: TrainConfig, checkpoints: Path, callbacks: Sequence[TrainerCallback]
) -> Trainer:
    """A trainer for `fit`.

    Args:
        model: The model with its adapter.
        prepared: Its examples.
        config: The settings.
        checkpoints: Folder of the checkpoints.
        callbacks: What is told of every step: the display, and what an adapter needs.
    """
    options = config.training
    arguments = TrainingArguments(
        output_dir=str(checkpoints), max_steps=options.steps, per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.accumulation, learning_rate=learning_rate(config),
        warmup_steps=options.warmup_steps, lr_scheduler_type="linear", weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm, activation_checkpointing=options.checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        logging_steps=min(config.run.log_every, options.steps), save_strategy="steps", save_steps=config.run.save_every,
        save_total_limit=2, report_to=[], seed=options.seed, use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True, remove_unused_columns=False, label_names=["labels"], dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, train_dataset=prepared.train, data_collator=prepared.collate,
        compute_loss_func=task_for(config).training_loss, callbacks=list(callbacks),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


def fit(trainer: Trainer, model: PeftModel, steps: int, checkpoint: Path | None) -> list[tuple[int, float]]:
    """Trains, or goes on from `checkpoint`; gives (step, training loss).

    Raises:
        RunError: The numbers came to where no weights can be made from them, such as the Neumann series' norm of 1.
    """
    state = None if checkpoint is None else TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    if checkpoint is not None and state is not None and state.global_step >= steps:
        # The trainer asks whether it is at the end after a step, never before: it would take one too many.
        model.load_adapter(str(checkpoint), "default", is_trainable=True)
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, CheckpointPart):
                callback.restore(model, checkpoint)
    else:
        with warnings.catch_warnings():
            # Checkpoints of a plain LoRA of the head hold the embedding too; the saved adapter does not.
            warnings.filterwarnings("ignore", message="Setting `save_embedding_layers` to `True`")
            try:
                trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
            except ConfigError as error:
                if trainer.state.global_step == 0:  # in a checkpoint, or in the settings
                    raise
                raise RunError(
                    f"training stopped after step {trainer.state.global_step} of {steps}: {error}. The adapter was not "
                    "saved; change this and run again with --overwrite"
                ) from error
        state = trainer.state
    return [(entry["step"], float(entry["loss"])) for entry in state.log_history if "loss" in entry]
