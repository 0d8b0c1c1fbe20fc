"""`qpeft gradient-variance`: a study of gradients with its folder, tables, plots and page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from qpeft.errors import UnknownNameError, unknown_name
from qpeft.files import write_text
from qpeft.options import listed, whole_numbers
from qpeft.training.progress import new_display
from qpeft.training.report import markdown_table
from qpeft.training.trainability import variances
from qpeft.training.trainability_config import LOSS, StudyConfig
from qpeft.training.trainability_folder import PLOTS, RAW, StudyFolder
from qpeft.training.trainability_gradients import OBSERVABLES, Objective
from qpeft.training.trainability_plots import AGAINST, ENGINE
from qpeft.training.trainability_points import plain, plan_points
from qpeft.training.trainability_statistics import ENOUGH
from qpeft.training.trainability_table import DecayRow, VarianceTable

COLUMNS = ("ansatz", "observable", "engine", "layers", "log2/qubit", "points")


@dataclass(frozen=True)
class Study:
    """What a study gave: its folder and its table."""

    folder: Path
    table: VarianceTable


def study(config: StudyConfig, console: Console | None = None) -> Study:
    """Finds the variances that `config` asks for and writes tables, plots and a page into the output folder.

    Args:
        config: The settings.
        console: Where progress shows; nothing shows if None.

    Raises:
        QpeftError: Input that cannot be worked with, before anything runs.
    """
    asked, folder = config.study, StudyFolder(Path(config.run.output), config)
    points = plan_points(
        asked.ansatz_names, whole_numbers("qubits", asked.qubits), whole_numbers("reps", asked.reps),
        _objectives(config), listed(asked.engines),
    )  # fmt: skip
    folder.begin()
    with new_display(console or Console(quiet=True)) as display:
        table = variances(points, asked.initialisations, asked.seed, asked.bootstrap, folder.path / RAW, display)
    folder.write_tables(table)
    pictures = _plots(folder.path, table)
    write_text(folder.path / "report.md", _page(config, table, pictures))
    folder.finish()
    return Study(folder.path, table)


def _objectives(config: StudyConfig) -> list[str | Objective]:
    """The observables by name, and the loss after each number of steps."""
    found: list[str | Objective] = []
    for name in listed(config.study.observables):
        if name == LOSS:
            from qpeft.training.trainability_loss import text_losses

            found += text_losses(config.loss, config.study.seed)
        elif name in OBSERVABLES:
            found.append(name)
        else:
            raise UnknownNameError(unknown_name("observable", name, (*OBSERVABLES, LOSS)))
    return found


def _plots(folder: Path, table: VarianceTable) -> list[str]:
    """Draws each observable and engine, as PNG and SVG; gives the names without their suffix, from the folder."""
    (folder / PLOTS).mkdir(exist_ok=True)
    observables, engines = (
        list(dict.fromkeys(getattr(row, name) for row in table)) for name in ("observable", "engine")
    )
    wanted = {
        f"{plain(observable)}-{plain(engine)}-{against}":
        (against, table.where(observable=observable, engine=engine))
        for observable in observables for engine in engines for against in AGAINST if against != ENGINE
    }  # fmt: skip
    if len(engines) > 1:
        wanted |= {
            f"{plain(observable)}-engines": (ENGINE, table.where(observable=observable)) for observable in observables
        }
    for name, (against, shown) in wanted.items():
        shown.plot(against, [folder / PLOTS / f"{name}.{suffix}" for suffix in ("png", "svg")])
    return [f"{PLOTS}/{name}" for name in wanted]


def decay_table(table: VarianceTable) -> list[tuple[str, ...]]:
    """The fitted decays for a reader: a header, and a row a fit; engines are named where there are several."""
    left_out = None if len({row.engine for row in table}) > 1 else COLUMNS.index("engine")
    rows = [COLUMNS, *(_decay(found) for found in table.decays())]
    return [tuple(cell for place, cell in enumerate(row) if place != left_out) for row in rows]


def _decay(found: DecayRow) -> tuple[str, ...]:
    fit = found.decay
    rate = "–" if fit is None else f"{fit.rate:.2f}" + ("" if fit.error is None else f" ± {fit.error:.2f}")
    points = "0" if fit is None else str(fit.points)
    return (found.ansatz, found.observable, found.engine, str(found.reps), rate, points)


def _page(config: StudyConfig, table: VarianceTable, pictures: Sequence[str]) -> str:
    asked = config.study
    header, *fits = decay_table(table)
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
        f"is below {ENOUGH}, or a fifth of the initialisations) it usually lies too low, its band is too narrow, and a "
        "fit through it is off by more than its error. More initialisations help.", "",
        *(f"![variance of the gradients, {name.removeprefix(PLOTS + '/')}]({name}.png)\n" for name in pictures),
        "## Decay with the number of qubits", "",
        "Slope of the least-squares line of log2 variance against N, ± its standard error: -1 halves the variance with "
        "every qubit.", "",
        *markdown_table(header, fits),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
