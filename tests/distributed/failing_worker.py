"""Trains for a step; rank 0 then cannot write its results. Prints how each rank ends."""

import os
import sys

from qpeft.errors import RunError
from qpeft.training import finetune
from qpeft.training.config import DataOptions, ModelOptions, RunOptions, TrainConfig, TrainingOptions


def failing(model, folder):
    raise OSError("no space left")


if __name__ == "__main__":
    finetune.save_adapter = failing
    config = TrainConfig(
        model=ModelOptions(model="embedded"), data=DataOptions(data="embedded", context=32),
        training=TrainingOptions(steps=1, batch_size=2, warmup_steps=0), run=RunOptions(output=sys.argv[1]),
    )  # fmt: skip
    try:
        finetune.train(config)
    except (OSError, RunError) as error:
        print(f"rank {os.environ['RANK']} ends: {error}", flush=True)
