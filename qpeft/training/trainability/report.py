"""The page of a study of gradients, and its tables for readers."""

from __future__ import annotations

from collections.abc import Sequence

from qpeft.training.report import markdown_table
from qpeft.training.trainability.config import StudyConfig
from qpeft.training.trainability.folder import PLOTS
from qpeft.training.trainability.gradients import OBSERVABLES
from qpeft.training.trainability.statistics import ENOUGH
from qpeft.training.trainability.table import DecayRow, VarianceTable, grouped

COLUMNS = ("ansatz", "observable", "engine", "layers", "log2/qubit", "points")
MARK = "*"  # of a variance that few initialisations decide


def report(config: StudyConfig, table: VarianceTable, pictures: Sequence[str]) -> str:
    """The page of a study, as Markdown; `pictures` are its plots, without their suffix, as the page links them."""
    asked = config.study
    header, *fits = decay_table(table)
    sizes, *found = variance_table(table)
    lines = [
        "# Variance of the gradients", "",
        f"dL/dtheta at {asked.initialisations} uniformly random angles (seed {asked.seed}); variances averaged over "
        f"all angles of a circuit; bands: {asked.confidence:.0%}, from {asked.resamples} bootstrap resamples of the "
        "initialisations. `layers.csv` and `parameters.csv` have the variances of layers and of single angles, `raw/` "
        "every derivative.", "",
        "**2-design** is the derived variance of an angle between two 2-designs (real ones for circuits of real "
        "gates): deep circuits come to it, if they are not as special as `rx_cnot`, whose gates commute. **1 layer, "
        "derived** is (1/8)(3/8)^(N-1) for one layer of RY or RX and the global observable. Both have the "
        "variance of an engine's shots added; under noise nothing is derived.", "",
        "Where a few large derivatives decide the variance (points drawn hollow; the column `effective` of `table.csv` "
        f"is below {ENOUGH} and below a fifth of the initialisations) it usually lies too low, its band is too narrow, "
        "and a fit through it is off by more than its error. More initialisations help.", "",
        *_of_loss(config, table),
        *(f"![variance of the gradients, {name.removeprefix(PLOTS + '/')}]({name}.png)\n" for name in pictures),
        "## Decay with the number of qubits", "",
        "Slope of the least-squares line of log2 variance against N, ± its standard error: -1 halves the variance with "
        "every qubit, a positive slope is growth; it takes two numbers of qubits, and its error three.", "",
        *markdown_table(header, fits), "",
        "## Variances", "",
        f"Averaged over all angles; {MARK} few initialisations decide.", "",
        *markdown_table(sizes, found),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _of_loss(config: StudyConfig, table: VarianceTable) -> list[str]:
    """What the loss was, if it is among the observables."""
    if all(row.observable in OBSERVABLES for row in table):
        return []
    asked = config.loss
    return [
        f"**loss-0**, **loss-20**, ...: the loss (nats per token) of a QPA adapter of the output head of {asked.model} "
        f"on {asked.context} tokens of {asked.data}, at the start and after so many training steps: r={asked.rank}, "
        f"preset {asked.preset}, transform {asked.transform or 'of the preset'}, start {asked.start}. Every "
        "initialisation has angles and a mapping network of its own.", "",
    ]  # fmt: skip


def decay_table(table: VarianceTable) -> list[tuple[str, ...]]:
    """The fitted decays for a reader: a header, and a row a fit; engines are named where there are several."""
    return _without_one_engine(table, [COLUMNS, *(_decay(found) for found in table.decays())])


def variance_table(table: VarianceTable) -> list[tuple[str, ...]]:
    """The variances for a reader: a header, and a row for each number of layers, a column for each of qubits."""
    sizes = sorted({row.qubits for row in table})
    rows = [(*COLUMNS[:4], *(f"N={n}" for n in sizes))]
    for key, group in grouped(table, "ansatz", "observable", "engine", "reps"):
        found = {row.qubits: f"{row.variance:.2g}" + MARK * row.spread.has_heavy_tails for row in group}
        rows.append((*map(str, key), *(found.get(n, "–") for n in sizes)))
    return _without_one_engine(table, rows)


def _without_one_engine(table: VarianceTable, rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    left_out = None if len({row.engine for row in table}) > 1 else COLUMNS.index("engine")
    return [tuple(cell for place, cell in enumerate(row) if place != left_out) for row in rows]


def _decay(found: DecayRow) -> tuple[str, ...]:
    fit = found.decay
    rate = "–" if fit is None else f"{fit.rate:.2f}" + ("" if fit.error is None else f" ± {fit.error:.2f}")
    points = "0" if fit is None else str(fit.points)
    return (found.ansatz, found.observable, found.engine, str(found.reps), rate, points)
