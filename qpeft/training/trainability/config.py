"""The settings of `qpeft gradient-variance`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qpeft.errors import ConfigError
from qpeft.generator_settings import PRESETS, STARTS
from qpeft.generators.transforms import TRANSFORMS
from qpeft.options import at_least, check_whole, leaves, listed, option, whole_numbers
from qpeft.qcircuits import ANSATZE
from qpeft.training.trainability.gradients import OBSERVABLES
from qpeft.training.trainability.statistics import Bootstrap

ALL = "all"  # ansätze
LOSS = "loss"  # the observable that is the loss of QPA on a text


@dataclass(frozen=True)
class StudyOptions:
    """What is studied; lists are written with commas."""

    ansatz: str = option(ALL, f"ansätze: all, or some of {', '.join(ANSATZE)}")
    qubits: str = option("2-8", "numbers of qubits, e.g. 2-8 or 2,4,6")
    reps: str = option("1,2,4,8,16,32,64", "numbers of layers")
    observables: str = option(
        ",".join(OBSERVABLES), "costs: global is |0...0><0...0|, local is Z on qubit 0, loss is QPA's on text"
    )
    engines: str = option("exact", "what runs the circuits, e.g. exact,exact:1024,pauli@ibm_torino")
    initialisations: int = option(200, "random angles at each point")
    confidence: float = option(0.95, "share of the resampled variances inside a band")
    resamples: int = option(1000, "bootstrap resamples behind a band")
    seed: int = option(0, "seed of everything random")

    def __post_init__(self) -> None:
        check_whole("initialisations", self.initialisations, 2)
        check_whole("seed", self.seed, 0)
        whole_numbers("qubits", self.qubits)
        whole_numbers("reps", self.reps)
        _ = self.bootstrap  # refuses its settings

    @property
    def bootstrap(self) -> Bootstrap:
        """How confidence bands are made."""
        return Bootstrap(self.confidence, self.resamples)

    @property
    def ansatz_names(self) -> list[str]:
        names = listed(self.ansatz)
        if ALL in names and len(names) > 1:
            raise ConfigError(
                f"ansatz is {self.ansatz!r}; {ALL!r} stands for every ansatz: give it alone, or some names"
            )
        return list(ANSATZE) if names == [ALL] else names


@dataclass(frozen=True)
class LossOptions:
    """The loss of QPA on a text, if it is among the observables."""

    model: str = option("embedded", "model whose output head is adapted: hub id, folder, or embedded")
    data: str = option("embedded", "text file, folder with text files, dataset on the hub, or embedded")
    context: int = option(128, "tokens that the loss is averaged over")
    rank: int = option(4, "rank r of the generated update")
    preset: str = option("default", "the mapping network: default, or the paper's")
    transform: str | None = option(
        None, f"what is done to probabilities, {', '.join(TRANSFORMS)} (the preset's own if not given)"
    )
    start: str = option("paper", "paper: all random; identity gives the angles no gradient before the first step")
    steps: str = option("0,20", "training steps before the gradient is taken; one study each")
    learning_rate: float | None = option(None, "of those steps (the preset's own if not given)")

    def __post_init__(self) -> None:
        at_least(2, self, "context")
        at_least(1, self, "rank")
        PRESETS[self.preset]
        if self.transform is not None:
            TRANSFORMS[self.transform]
        if self.start not in STARTS:
            raise ConfigError(f"start {self.start!r} is not one of {', '.join(STARTS)}")
        steps = whole_numbers("steps", self.steps, 0)
        if self.start == "identity" and 0 in steps:
            raise ConfigError("with start 'identity' the angles have no gradient before the first step; give --steps 1")
        if self.learning_rate is not None and not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ConfigError(f"learning_rate is {self.learning_rate}; it must be a finite number above 0")


@dataclass(frozen=True)
class OutputOptions:
    """Where the results go."""

    output: str = option("runs/gradient-variance", "folder of the results")
    resume: bool = option(False, "go on with the study in the output folder; finished points are not run again")
    overwrite: bool = option(False, "replace the study in the output folder")

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise ConfigError("give --resume or --overwrite, not both")


@dataclass(frozen=True)
class StudyConfig:
    """All settings of `qpeft gradient-variance`."""

    study: StudyOptions = field(default_factory=StudyOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    run: OutputOptions = field(default_factory=OutputOptions)


def as_texts(sections: Mapping[str, Any]) -> dict[str, Any]:
    """TOML's numbers and lists, where this command's settings are texts with commas.

    Example:
        >>> as_texts({"study": {"qubits": [2, 3], "reps": 4, "initialisations": 10}})
        {'study': {'qubits': '2,3', 'reps': '4', 'initialisations': 10}}
    """
    texts = {leaf.name for leaf in leaves(StudyConfig) if leaf.type is str}
    return {
        section: {
            name: ",".join(map(str, value if isinstance(value, list) else [value])) if name in texts else value
            for name, value in settings.items()
        } if isinstance(settings, Mapping) else settings
        for section, settings in sections.items()
    }  # fmt: skip
