"""What a training run keeps in its checkpoints beside what peft and transformers do, so that it resumes exactly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from qpeft.errors import RunError
from qpeft.generators.packed_state import latent_state, load_latent_state


class CheckpointPart(TrainerCallback, ABC):  # type: ignore[misc]  # transformers is untyped
    """Writes a file of its own into each checkpoint, and reads it when a run resumes.

    Attributes:
        file: Its name.
    """

    file: ClassVar[str]

    @abstractmethod
    def write(self, model: nn.Module, path: Path) -> None:
        """Writes the file."""

    @abstractmethod
    def read(self, model: nn.Module, path: Path) -> None:
        """Reads the file into a model whose adapter was loaded before."""

    def restore(self, model: nn.Module, checkpoint: Path) -> None:
        """Gives a model what the file in a checkpoint holds; the adapter must have been loaded before.

        Raises:
            RunError: The checkpoint has no such file.
        """
        path = checkpoint / self.file
        if not path.is_file():
            raise RunError(f"the checkpoint {checkpoint} has no {self.file}, so the run cannot be resumed; start anew")
        self.read(model, path)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step:
            self.restore(kwargs["model"], _checkpoint(args, state))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Not on_save: that comes after the Trainer's state, by which a checkpoint is known to be complete.
        if control.should_save and args.should_save:
            folder = _checkpoint(args, state)
            folder.mkdir(parents=True, exist_ok=True)
            self.write(kwargs["model"], folder / self.file)


class LatentNumbers(CheckpointPart):
    """The full-precision numbers behind quantised ones, which are all that an adapter's own file holds."""

    file = "latent_numbers.safetensors"

    def write(self, model: nn.Module, path: Path) -> None:
        save_file(latent_state(model), path)

    def read(self, model: nn.Module, path: Path) -> None:
        load_latent_state(model, load_file(path))


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    """Where the Trainer keeps its checkpoint of this step."""
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
