"""How large a circuit's gradients are at random angles: the variance of dL/dtheta against qubits and layers.

Where it falls exponentially with the number of qubits, training from random angles cannot start (barren plateaus,
McClean et al., Nature Commun. 9, 4812 (2018)); how fast it falls depends on the cost (Cerezo et al., Nature Commun. 12,
1791 (2021)), on depth, and on what is between the circuit and the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.progress import Progress

from qpeft.errors import ConfigError, EngineError
from qpeft.options import check_whole
from qpeft.qcircuits.memory import require_bytes
from qpeft.qcircuits.seeding import Draws
from qpeft.training.trainability.gradients import DTYPE, OBSERVABLES, Objective, draw_angles
from qpeft.training.trainability.points import Circuits, Point, plan_points
from qpeft.training.trainability.raw import RawGradients
from qpeft.training.trainability.references import (
    is_one_product_layer,
    one_layer_global,
    shots_of_one_layer,
    shots_of_two_design,
    two_design,
)
from qpeft.training.trainability.statistics import Array, Bootstrap, layers_of, spread
from qpeft.training.trainability.table import VarianceRow, VarianceTable

COPIES, DRAWS = 4, 3  # of the angles' derivatives, and of the resamples' weights, that statistics hold at once


def gradient_variance(
    circuits: Circuits, qubits: Sequence[int] = (2, 4, 6, 8), reps: Sequence[int] = (1, 4, 16),
    observables: Sequence[str | Objective] = tuple(OBSERVABLES), engines: Sequence[str] = ("exact",),
    initialisations: int = 200, seed: int = 0, bootstrap: Bootstrap | None = None, folder: Path | None = None,
    display: Progress | None = None,
) -> VarianceTable:  # fmt: skip
    """Variances of dL/dtheta over angles drawn uniformly from (-pi, pi), at every combination of what is given.

    Equal angles serve every observable and engine. Engines with shots estimate gradients by the parameter-shift rule
    from as many shots a circuit, so that their variance is that of the gradient and of the estimate together.

    Args:
        circuits: Names of ansätze, a circuit, a function (num_qubits, reps) -> Circuit, or a dict of such by name.
        qubits: Numbers of qubits; a circuit of one's own keeps its own.
        reps: Numbers of layers; a circuit of one's own is repeated so often, with angles of its own each time.
        observables: "global", |0...0><0...0|, "local", Z on qubit 0, or an objective, such as one of
            `qpeft.training.trainability.loss.text_losses`.
        engines: What runs the circuits, e.g. "exact", "exact:1024", "pauli@ibm_torino".
        initialisations: Number of random angles at each point.
        seed: Decides what is drawn.
        bootstrap: How confidence bands are made.
        folder: Where the raw derivatives are kept; points that are there already are not run again.
        display: Shows a bar while points run.

    Returns:
        A table: `to_pandas()` gives data frames, `plot()` figures, `decays()` how fast the variances fall with N.

    Raises:
        ConfigError: Fewer than 2 initialisations, a circuit without trainable angles, one that does not fit into
            memory, or an unknown name; before anything runs.
        RunError: The folder holds another experiment's derivatives.

    Example:
        >>> table = gradient_variance("ry_cnot", qubits=[2, 4, 6], reps=[1], observables=["global"])
        >>> [row.qubits for row in table], table[0].one_layer  # (1/8) (3/8)^(N-1)
        ([2, 4, 6], 0.046875)
        >>> round(table.decays()[0].decay.rate)  # log2(3/8) = -1.4
        -1
    """
    points = plan_points(circuits, qubits, reps, observables, engines)
    return variances(points, initialisations, seed, bootstrap or Bootstrap(), folder, display)


def variances(
    points: Sequence[Point], initialisations: int, seed: int, bootstrap: Bootstrap, folder: Path | None,
    display: Progress | None,
) -> VarianceTable:  # fmt: skip
    """`gradient_variance` of points that are planned already; a row each, in order."""
    check_work(points, initialisations, bootstrap)
    seed = Draws(seed).seed
    raw = None if folder is None else RawGradients(folder)
    identities = [point.identity(initialisations, seed) for point in points]
    for point, identity in zip(points, identities, strict=True):
        if raw is not None:
            raw.check(point.label, identity)  # of all, before any runs
    task = None if display is None else display.add_task("points", loss="", total=len(points))
    rows = []
    for point, identity in zip(points, identities, strict=True):
        if display is not None and task is not None:
            display.update(task, description=point.label)
        gradients = None if raw is None else raw.read(point.label)
        if gradients is None:
            gradients = _gradients(point, initialisations, seed)
            if raw is not None:
                raw.write(point.label, identity, gradients)
        rows.append(_row(point, gradients, bootstrap, seed))
        if display is not None and task is not None:
            display.advance(task)
    return VarianceTable(tuple(rows))


def check_work(points: Sequence[Point], initialisations: int, bootstrap: Bootstrap) -> None:
    """Raises `ConfigError` if what is asked for cannot be worked with, or needs more memory than is free."""
    check_whole("initialisations", initialisations)
    if initialisations < 2:
        raise ConfigError(f"initialisations is {initialisations}; a variance needs at least 2")
    angles = max((point.circuit.num_parameters for point in points), default=0)
    numbers = initialisations * (COPIES * angles + DRAWS * bootstrap.resamples)
    try:
        require_bytes(
            numbers * DTYPE.itemsize, torch.device("cpu"),
            f"{initialisations} initialisations of {angles} angles, resampled {bootstrap.resamples} times,",
            "Give fewer of them",
        )  # fmt: skip
    except EngineError as error:
        raise ConfigError(str(error)) from error


def _gradients(point: Point, initialisations: int, seed: int) -> Array:
    angles, engine = draw_angles(point.circuit, initialisations, seed), point.new_engine(seed)
    found: Array = point.objective.gradients(engine, point.circuit, angles, point.is_noisy).numpy()
    return found


def _row(point: Point, gradients: Array, bootstrap: Bootstrap, seed: int) -> VarianceRow:
    found = spread(gradients, layers_of(point.circuit), bootstrap, seed)
    return VarianceRow(
        point.ansatz, point.num_qubits, point.reps, point.observable, point.engine, found, *_references(point)
    )


def _references(point: Point) -> tuple[float | None, float | None]:
    """What is derived for the point: of 2-designs, and of one layer."""
    number, shots = point.num_qubits, point.shots
    if point.observable not in OBSERVABLES or not point.is_ideal:
        return None, None
    design, layer = two_design(point.observable, number, point.circuit.is_real), one_layer_global(number)
    if shots is not None:
        design += shots_of_two_design(point.observable, number, point.circuit.is_real, shots)
        layer += shots_of_one_layer(number, shots)
    return design, layer if point.observable == "global" and is_one_product_layer(point.circuit) else None
