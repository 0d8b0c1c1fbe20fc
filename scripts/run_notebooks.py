"""Runs the notebooks as a reader would, and writes them back with their outputs.

    .venv/bin/python scripts/run_notebooks.py [NOTEBOOK ...]      # all of notebooks/ without names: make notebooks

Each runs from top to bottom in a fresh kernel of this interpreter, in an empty folder, offline, on one thread.
A notebook with a fault (see `faults`) is left as it was. What is written holds no times and no machine's paths, so that
a second run changes only what the code changed.
"""

import argparse
import copy
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.font_manager  # noqa: F401  (builds its cache where there is none, or the first kernel would say so)
import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from qpeft.files import write_text

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
LARGEST = 500_000  # bytes of a committed notebook
HUB_TAG = "hub-model"  # the one cell that is edited to use a model of the Hugging Face hub
SECONDS = 1800  # the longest a cell may take, on however busy a machine
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
PATHS = re.compile(rf"/(?:home|Users|root|tmp|var)/|[A-Z]:\\\\|site-packages|{re.escape(str(FOLDER.parent))}")


def read(path: Path) -> NotebookNode:
    """The notebook as it was committed."""
    return nbformat.read(path, as_version=4)


def execute(notebook: NotebookNode) -> NotebookNode:
    """The notebook with the outputs of a fresh run.

    Raises:
        CellExecutionError: A cell failed.
    """
    notebook = copy.deepcopy(notebook)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as kernel:
        client = NotebookClient(
            notebook, timeout=SECONDS, record_timing=False, resources={"metadata": {"path": folder}},
            coalesce_streams=True,  # whether two prints arrive as one message depends on how busy the machine is
        )  # fmt: skip
        client.km = AsyncKernelManager(
            # Without folders to look in, "python3" is this interpreter, whatever is registered on the machine.
            kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
            transport="ipc", connection_file=str(Path(kernel) / "kernel.json"),
        )  # fmt: skip
        client.execute(env=_environment(kernel))
    return cleaned(notebook)


def _environment(folder: str) -> dict[str, str]:
    """This process's, without a network, a user's IPython settings and a plotting back-end of another kind."""
    others = {name: value for name, value in os.environ.items() if name not in ("MPLBACKEND", "PYTHONWARNINGS")}
    return others | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "IPYTHONDIR": folder}


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """Without what differs from machine to machine; with the mark of the source that the outputs belong to."""
    for cell in notebook.cells:
        cell.metadata = NotebookNode({"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {})
    notebook.metadata = nbformat.from_dict(METADATA | {"qpeft": {"source": source_mark(notebook)}})
    return notebook


def source_mark(notebook: NotebookNode) -> str:
    """A checksum of the code, cell by cell."""
    code = json.dumps([cell.source for cell in notebook.cells if cell.cell_type == "code"])
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def faults(notebook: NotebookNode) -> list[str]:
    """What a reader should not find in an executed notebook, as sentences; none if all is well."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found = []
    if notebook.metadata.get("qpeft", {}).get("source") != source_mark(notebook):
        found.append("the code was changed since it ran")
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        found.append("the cells did not run once each, from top to bottom")
    marked = [cell for cell in cells if HUB_TAG in cell.metadata.get("tags", [])]
    if len(marked) != 1 or "hub" not in marked[0].source:
        found.append(f"{len(marked)} cells are tagged {HUB_TAG}; it must be one, and say what to change")
    for number, cell in enumerate(cells, 1):
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                found.append(f"cell {number} printed to stderr: {output.get('text', output.get('evalue', ''))!r}")
            shown = json.dumps([value for kind, value in texts(output).items() if not kind.startswith("image/")])
            if PATHS.search(shown):
                found.append(f"cell {number} shows a path of this machine: {shown[:200]}")
    if not any("image/png" in texts(output) for cell in cells for output in cell.outputs):
        found.append("it has no picture")
    size = len(written(notebook).encode())
    if size > LARGEST:
        found.append(f"it is {size:,} bytes long; at most {LARGEST:,} (draw fewer or smaller pictures)")
    return found


def texts(output: NotebookNode) -> dict[str, str]:
    """What an output shows, by its kind."""
    if output.output_type == "stream":
        return {f"stream/{output.name}": output.text}
    return dict(output.get("data", {}))


def written(notebook: NotebookNode) -> str:
    """The file's content."""
    return nbformat.writes(notebook) + "\n"


def main() -> int:
    """Runs what is named on the command line; 1 if any notebook has a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="files (all of notebooks/ if none is given)")
    failed = False
    for path in parser.parse_args().notebooks or sorted(FOLDER.glob("*.ipynb")):
        began = time.monotonic()
        try:
            notebook = execute(read(path))
            wrong = faults(notebook)
        except CellExecutionError as error:
            wrong = [str(error)]
        if wrong:
            print(f"{path.name} stays as it was:", *wrong, sep="\n  ", file=sys.stderr)
            failed = True
            continue
        write_text(path, written(notebook))
        print(f"{path.name}: {time.monotonic() - began:.0f} s, {path.stat().st_size / 1000:.0f} kB")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
