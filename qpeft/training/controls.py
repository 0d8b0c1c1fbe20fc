"""The circuit's classical controls in a comparison: the circuit's own sizes, and once more at an equal budget.

A control differs from the circuit in the source of its numbers alone, so that it takes the circuit's chunk size, qubits
and network. It then trains other counts than the circuit; a second run of the control keeps to the circuit's count.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from peft import PeftModel

from qpeft.adapters import GeneratedConfig, QPABank
from qpeft.adapters.method_table import METHODS
from qpeft.adapters.peft_internals import bank_of
from qpeft.errors import ConfigError, unknown_name
from qpeft.generators.spec import SOURCES, QPASpec
from qpeft.training.vary import Combination, Plan

Build = Callable[[Combination], PeftModel]


@dataclass(frozen=True)
class Planned:
    """A plan whose sizes are decided.

    Attributes:
        plan: It.
        notes: What the reader should know before training starts, as sentences: a heading, then the count of every run
            and why there is none at equal budget; or why nothing can be said of the circuit. Empty if no source varies.
    """

    plan: Plan
    notes: list[str]


def check_sources(plan: Plan) -> None:
    """Raises `ConfigError` for an unknown control, or a method that has no source to vary."""
    for source in plan.varied.get("source", []):
        if source not in SOURCES:
            raise ConfigError(unknown_name("source", source, SOURCES))
    for combination in plan.combinations if "source" in plan.varied else []:
        method = combination.config.adapter.method
        if "source" not in METHODS[method].fields:
            able = ", ".join(name for name, row in METHODS.items() if "source" in row.fields)
            raise ConfigError(
                f"source is varied, and the method {method} has no circuit that a control could stand for; compare it "
                f"apart, or take one of {able}"
            )


def with_controls(plan: Plan, build: Build) -> Planned:
    """Gives every control the circuit's sizes, and adds a run of it at equal budget where the counts differ.

    Args:
        plan: As it was asked for; one that varies no source, or no circuit among them, stays as it is.
        build: Gives the model with a combination's adapter.

    Raises:
        ConfigError: The circuit's generators have chunks of several sizes, which one chunk size cannot ask for.
    """
    if "source" not in plan.varied:
        return Planned(plan, [])
    if not plan.has_controls:
        return Planned(plan, [no_reference(plan)])
    circuits: dict[str, _Circuit] = {}
    combinations: list[Combination] = []
    notes: list[str] = ["Numbers that train:"]
    for combination in plan.combinations:
        reference = plan.reference(combination)
        if reference.label not in circuits:
            circuits[reference.label] = _Circuit(reference, build)
        for one, note in circuits[reference.label].runs(combination):
            combinations += [one] if one is not None else []
            notes.append(f"  {note}")
    return Planned(replace(plan, combinations=combinations), notes)


def no_reference(plan: Plan) -> str:
    """Why a comparison of sources does not say what the circuit adds."""
    what = "no control" if "circuit" in plan.varied["source"] else "no circuit"
    return (
        f"There is {what} among the sources: each is trained with the settings as they are given, and what the circuit "
        "adds cannot be said. Give source=circuit and one or more of frozen, mlp, free, none."
    )


class _Circuit:
    """The circuit that some controls are compared with.

    Args:
        combination: Its settings.
        build: Gives the model with its adapter.
    """

    def __init__(self, combination: Combination, build: Build) -> None:
        # Sizes do not depend on the engine, which need not be installed here.
        model = build(_with_generator(combination, engine="exact", diff_method=None, gradient_shots=None))
        config, bank = model.peft_config["default"], bank_of(model)
        assert isinstance(config, GeneratedConfig) and isinstance(bank, QPABank)
        self.config, self.pieces, self.specs = config, list(bank.pieces), list(bank.specs)
        self.others = model.get_nb_trainable_parameters()[0] - _count(self.specs)  # a head that trains in full
        sizes = {spec.chunk_size for spec in self.specs}
        if len(sizes) > 1:
            raise ConfigError(
                f"the budget gives the circuit's generators, one a layer, chunks of {_range(self.specs)} weights, and "
                "the controls are compared at one chunk size; give --chunk-size"
            )
        (self.chunk_size,) = sizes

    def runs(self, combination: Combination) -> Iterator[tuple[Combination | None, str]]:
        """The runs of a combination, each with its count in words; None where there is nothing to run."""
        budget, source = _count(self.specs), combination.config.generator.source
        own = self._specs(source, chunk_size=self.chunk_size, budget=None)
        pinned = _with_generator(combination, chunk_size=self.chunk_size, budget=None)
        yield pinned, f"{pinned.label}: {self._text(own)}"
        if _count(own) == budget:
            return
        hidden = self._widest(source, budget)
        if hidden is None:
            yield None, f"{pinned.label}: no run at equal budget, since its smallest generator trains more"
            return
        specs = self._specs(source, chunk_size=None, budget=budget, hidden=hidden)
        if specs == own:
            yield None, f"{pinned.label}: no run of its own at equal budget, since one more weight a chunk is too large"
            return
        changes: dict[str, Any] = {"chunk_size": None, "budget": budget}
        fitted = f"chunk size {_range(specs)}"
        if hidden != self.config.hidden:
            changes["hidden"] = hidden
            fitted += f", hidden {'+'.join(map(str, hidden))}"
        one = replace(_with_generator(combination, **changes), fitted=fitted)
        yield one, f"{one.label}: {self._text(specs)}"

    def _text(self, specs: Sequence[QPASpec]) -> str:
        hidden, qubits = "+".join(map(str, specs[0].hidden)) or "none", max(spec.num_qubits for spec in specs)
        return (
            f"{self.others + _count(specs):,} (chunk size {_range(specs)}, "
            f"{qubits} qubit{'s' if qubits > 1 else ''}, hidden {hidden})"
        )

    def _specs(self, source: str, **changes: Any) -> list[QPASpec]:
        return replace(self.config, source=source, resolved=None, **changes).specs(self.pieces)

    def _widest(self, source: str, budget: int) -> list[int] | None:
        """The hidden widths as they are, or scaled down as little as the budget needs; None if it is too small."""
        widths = self.config.hidden or []
        most = max(widths, default=1)

        def scaled(part: int) -> list[int]:
            return [max(1, width * part // most) for width in widths]

        def is_too_large(part: int) -> bool:
            try:
                self._specs(source, chunk_size=None, budget=budget, hidden=scaled(part))
            except ConfigError:
                return True
            return False

        # The smallest generator grows with the widths, so that those which fit come first.
        fitting = bisect_left(range(1, most + 1), True, key=is_too_large)
        return scaled(fitting) if fitting else None


def _with_generator(combination: Combination, **changes: Any) -> Combination:
    config = combination.config
    return replace(combination, config=replace(config, generator=replace(config.generator, **changes)))


def _count(specs: Sequence[QPASpec]) -> int:
    return sum(spec.num_parameters for spec in specs)


def _range(specs: Sequence[QPASpec]) -> str:
    sizes = [spec.chunk_size for spec in specs]
    return f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"
