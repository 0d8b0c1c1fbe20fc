"""`qpeft gradient-variance`: a study of gradients with its folder, tables, plots and page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from qpeft.errors import UnknownNameError, unknown_name
from qpeft.files import write_text
from qpeft.options import listed, whole_numbers
from qpeft.training.progress import new_display
from qpeft.training.trainability.config import LOSS, StudyConfig
from qpeft.training.trainability.folder import PLOTS, RAW, StudyFolder
from qpeft.training.trainability.gradients import OBSERVABLES, Objective
from qpeft.training.trainability.plots import AGAINST, ENGINE
from qpeft.training.trainability.points import plain, plan_points
from qpeft.training.trainability.report import report
from qpeft.training.trainability.table import VarianceTable
from qpeft.training.trainability.variance import check_work, variances


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
    check_work(points, asked.initialisations, asked.bootstrap)
    folder.begin()
    with new_display(console or Console(quiet=True)) as display:
        table = variances(points, asked.initialisations, asked.seed, asked.bootstrap, folder.path / RAW, display)
    folder.write_tables(table)
    pictures = _plots(folder.path, table)
    write_text(folder.path / "report.md", report(config, table, pictures))
    folder.finish()
    return Study(folder.path, table)


def _objectives(config: StudyConfig) -> list[str | Objective]:
    """The observables by name, and the loss after each number of steps."""
    found: list[str | Objective] = []
    for name in listed(config.study.observables):
        if name == LOSS:
            from qpeft.training.trainability.loss import text_losses

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
