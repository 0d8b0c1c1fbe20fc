"""The Python examples of the README and of the documentation run as they stand."""

import re
import shlex
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from qpeft.adapters.export import FORMS
from qpeft.adapters.method_table import METHODS
from qpeft.cli import app
from qpeft.engines import ENGINES
from qpeft.generators import FRAMES, NETWORKS, OTHER_SIZES, TensorNetwork
from qpeft.generators.frames import CayleyFrame
from qpeft.generators.frames.counts import CONVENTIONS
from qpeft.quantum_commands import usage

README = Path(__file__).resolve().parents[1] / "README.md"
ENGINES_PAGE = README.parent / "docs" / "engines.md"
METHODS_PAGE = README.parent / "docs" / "methods.md"
FRAMES_PAGE = README.parent / "docs" / "quantum-peft.md"


def blocks(page, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf8"), flags=re.DOTALL)


def rows(page, columns):
    """Cells of the table rows of so many columns whose first cell is a name, by that name."""
    cells = [line.strip("| ").split(" | ") for line in page.read_text(encoding="utf8").splitlines() if "| `" in line]
    return {row[0].split("`")[1]: row[1:] for row in cells if len(row) == columns}


@pytest.fixture
def names(tmp_path, monkeypatch):
    """The examples write into the current folder, and build on one another's names alone."""
    monkeypatch.chdir(tmp_path)
    return {}


def test_the_examples_run_in_order(names, capsys):
    assert len(blocks(README)) == 5
    for block in blocks(README):
        exec(compile(block, str(README), "exec"), names)
    printed = capsys.readouterr().out
    assert "trainable params: 1," in printed
    assert "max_difference=" in printed
    assert "trainable params: 696 " in printed
    assert "q3: ─ry(θ3)" in printed


def test_the_engine_of_ones_own(names, monkeypatch, capsys):
    monkeypatch.setattr(ENGINES, "_entries", dict(ENGINES))
    noise, hardware, named, own = blocks(ENGINES_PAGE)
    assert "QiskitRuntimeService()" in hardware  # needs an account
    for block in (noise, named, own):
        exec(compile(block, str(ENGINES_PAGE), "exec"), names)
    date, *name, deviation = capsys.readouterr().out.split()
    assert date == "2025-02-26" and " ".join(name) == "0.5 x fake_torino[0, 1, 2, 3]"
    assert float(deviation) < 1e-6
    assert names["engine"].diff_method == "spsa"


def test_the_methods(names, capsys):
    (block,) = blocks(METHODS_PAGE)
    exec(compile(block, str(METHODS_PAGE), "exec"), names)
    assert capsys.readouterr().out.count("trainable params: ") == 5


def test_the_table_of_methods_is_the_registry():
    rows = re.findall(r"^\| `(.*) \|$", METHODS_PAGE.read_text(encoding="utf8"), re.MULTILINE)
    shown = {}
    for row in rows:
        name, config, _, _, merges, exported = row.split(" | ")
        shown[name.strip("`")] = (config.strip("`").split("(")[0], merges, exported)
    assert shown == {
        name: (method.config.__name__, "yes" if method.merges else "no", FORMS[method.export].title)
        for name, method in METHODS.items()
        if method.generates
    }


def test_the_table_of_engines_is_the_registry():
    rows = re.findall(
        r"^\| `(\S+)` \|[^|]*\|([^|]*)\|([^|]*)\|$", ENGINES_PAGE.read_text(encoding="utf8"), re.MULTILINE
    )
    assert [name for name, _, _ in rows] == [usage(name, entry) for name, entry in ENGINES.items()]
    for (_, exact, sampled), entry in zip(rows, ENGINES.values(), strict=True):
        assert exact.strip() == ", ".join(entry.diff_methods)
        assert sampled.strip() == ", ".join(entry.sampled_diff_methods)


def test_quantum_peft(names, capsys):
    page = FRAMES_PAGE.read_text(encoding="utf8")
    trains, errors, bits, rounds, circuit, ring, network = blocks(FRAMES_PAGE)
    for block in (trains, errors):
        exec(compile(block, str(FRAMES_PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert "trainable params: 696 " in printed and "max_difference=" in printed
    found = [(int(numbers), float(error)) for numbers, error in map(str.split, printed.splitlines()[-3:])]
    assert [numbers for numbers, _ in found] == [28, 4086, 4086]
    assert max(found[0][1], found[1][1]) < 1e-6 < 2e-3 < found[2][1] < 1e-2
    exec(compile(bits, str(FRAMES_PAGE), "exec"), names)
    assert f"# {int(capsys.readouterr().out.split()[-1]):,} bytes;" in page
    assert sorted(path.name for path in Path("checkpoints/checkpoint-1").glob("latent*"))
    for block in (rounds, circuit, ring, network):
        exec(compile(block, str(FRAMES_PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert printed.split()[:3] == ["17", "layers", "rounded"]
    # Four layers: D = 4 matrices of (K n) x K below their diagonals, and the bond in the middle.
    ring_numbers = sum(2 * (2 * mode) - 3 for mode in (16, 24, 8, 16)) + 2
    assert f"trainable params: {4 * ring_numbers:,} " in printed


def test_the_tables_of_quantum_peft():
    names = list(rows(FRAMES_PAGE, 6))
    assert names == list(FRAMES)
    sizes = {name: [int(cell.replace(",", "")) for cell in row[1:]] for name, row in rows(FRAMES_PAGE, 5).items()}
    assert list(sizes) == sorted(OTHER_SIZES, key=["pad", "single", "full"].index)
    for name, numbers in sizes.items():
        assert numbers == [CONVENTIONS[f"eq2-{name}"].frame(size, 4, 4, 1) for size in (768, 3072, 14336)]
        assert numbers[0] == OTHER_SIZES[name](768, 4, 1).num_parameters
    networks = {name: int(numbers) for name, (numbers, _) in rows(FRAMES_PAGE, 3).items() if name in NETWORKS}
    assert networks == {
        name: TensorNetwork(name, 256, 256, rank=4, frame=CayleyFrame, modes=4).num_parameters for name in NETWORKS
    }


def test_the_published_counts_of_quantum_peft():
    layers = [(768, 768)] * 48 + [(768, 3072)] * 24  # DeBERTa's, Table 2
    for name, shown in (("three-ceil", "12,744"), ("eq2-pad", "4,392"), ("eq2-single", "10,728")):
        assert f"{sum(CONVENTIONS[name].layer(*layer, 3, 3, 1) for layer in layers):,}" == shown
        assert shown in FRAMES_PAGE.read_text(encoding="utf8")


def commands(page):
    """Each command of a page, with the output that the page shows."""
    text = "\n".join(blocks(page, "console")).replace("\\\n", "")
    for block in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = block.partition("\n")
        yield shlex.split(command), output


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_commands_of_quantum_peft(names, monkeypatch):
    monkeypatch.setattr("qpeft.adapter_commands.console", Console(width=100))  # the page's, whatever starts the tests
    given = list(commands(FRAMES_PAGE))
    assert [command[1] for command, _ in given] == ["train", "train", "export", "count"]
    for (_, *arguments), shown in given:
        short = ["--steps", "1"] if arguments[0] == "train" else []
        result = CliRunner(env={"COLUMNS": "100"}).invoke(app, [*arguments, *short])
        assert result.exit_code == 0, result.output
        printed = [line.rstrip() for line in result.output.splitlines()]
        assert [line for line in shown.splitlines() if line and line not in printed] == []


def test_every_file_the_readme_names_is_there():
    root = README.parent
    for name in ("docs/images/data_flow.svg", "scripts/make_embedded_model.py", "Makefile", "LICENSE"):
        assert (root / name).is_file(), name
