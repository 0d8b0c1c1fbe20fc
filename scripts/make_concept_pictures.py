"""Draws the pictures of docs/concepts, one a page: python scripts/make_concept_pictures.py

White grounds keep them legible on dark pages. The same packages give the same files, byte for byte.
"""

import os
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from qpeft import QPAGenerator, QPASpec, ansatz, get_engine
from qpeft.qcircuits.interop import to_qiskit
from qpeft.training.plots import COLOURS, canvas

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
BLUE, VERMILION, GREEN = COLOURS[:3]
INK, GREY = "#222222", "#666666"
CIRCUIT_STYLE = {
    "displaycolor": {"ry": (BLUE, "#ffffff"), "cx": (INK, "#ffffff")}, "fontsize": 11, "subfontsize": 8,
    "textcolor": INK, "linecolor": GREY,
}  # fmt: skip


def blank(axes, width, height):
    """Axes for drawing: no frame, no ticks, one unit the same length both ways."""
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.axis("off")


def box(axes, x, y, width, height, text="", colour=GREY, dashed=False, **options):
    axes.add_patch(
        FancyBboxPatch(
            (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.08", facecolor="white", edgecolor=colour,
            linewidth=1.6, linestyle="--" if dashed else "-",
        )
    )  # fmt: skip
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=INK, **{"fontsize": 9.5, **options})


def arrow(axes, start, end, colour=GREY, bend=0.0):
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=11, color=colour, linewidth=1.4, shrinkA=0, shrinkB=0,
            connectionstyle=f"arc3,rad={bend}",
        )
    )  # fmt: skip


def circuit_picture(path):
    """A drawn circuit, the same as data, and how a basis state's index is read."""
    circuit = ansatz("ry_cnot", num_qubits=4, reps=1)
    with canvas(path, size=(7.6, 4.2)) as figure:
        grid = figure.add_gridspec(2, 2, width_ratios=(1.15, 1), height_ratios=(1.9, 1))
        drawn, data, order = (
            figure.add_subplot(grid[0, 0]),
            figure.add_subplot(grid[0, 1]),
            figure.add_subplot(grid[1, :]),
        )
        to_qiskit(circuit).draw("mpl", ax=drawn, style=CIRCUIT_STYLE)
        drawn.set_title("drawn", loc="left", color=GREY, fontsize=11)

        data.axis("off")
        data.set_title("as data: Circuit.operations", loc="left", color=GREY, fontsize=11)
        for row, operation in enumerate(circuit.operations):
            text = f"{operation.gate}  {operation.qubits!s:<7}"
            if operation.angle is not None:
                angle = operation.angle
                text += f" {angle.scale:g} * theta[{angle.index}] + {angle.offset:g}"
            data.text(0, 0.94 - 0.135 * row, text, family="monospace", fontsize=10, color=INK, va="center")

        blank(order, 15.2, 3.4)
        order.set_anchor("W")
        order.text(0, 3.1, "basis state 6: qubit 0 is the most significant bit", color=GREY, fontsize=11)
        for qubit, bit in enumerate(f"{6:04b}"):
            x = 0.5 + 2.2 * qubit
            colour = BLUE if bit == "1" else "#dddddd"
            order.add_patch(Rectangle((x, 0.9), 1.3, 1.3, facecolor=colour, edgecolor="white"))
            order.text(x + 0.65, 1.55, bit, ha="center", va="center", fontsize=14, color="white" if bit == "1" else INK)
            order.text(x + 0.65, 0.45, f"q{qubit}: {2 ** (3 - qubit)}", ha="center", va="center", color=INK)
        order.text(9.6, 1.55, "= 0*8 + 1*4 + 1*2 + 0*1 = 6", va="center", family="monospace", fontsize=10, color=INK)


def engine_picture(path):
    """The probabilities of one circuit from three engines."""
    circuit = ansatz("ry_cnot", num_qubits=3, reps=8)
    angles = (2 * torch.rand(circuit.num_parameters, generator=torch.Generator().manual_seed(0)) - 1) * torch.pi
    names = ("exact", "exact:10x", "pauli@ibm_torino:10x")
    found = [get_engine(name, seed=1).probabilities(circuit, angles) for name in names]
    with canvas(path, size=(7.6, 3.6)) as figure:
        axes = figure.add_subplot()
        for place, (name, probabilities, hatch) in enumerate(zip(names, found, ("", "///", ".."), strict=True)):
            distance = (probabilities - found[0]).abs().sum().item() / 2
            label = name if place == 0 else f"{name}, total variation {distance:.2f}"
            positions = [state + 0.27 * (place - 1) for state in range(8)]
            axes.bar(positions, probabilities, 0.25, label=label, hatch=hatch, edgecolor="white", linewidth=0.5)
        axes.set_xticks(range(8), [f"{state:03b}" for state in range(8)])
        axes.set(xlabel="basis state (bits of q0 q1 q2)", ylabel="probability")
        axes.grid(axis="x", visible=False)
        axes.figure.legend(loc="outside upper center", ncols=3, fontsize=9)


def generator_picture(path):
    """Eight basis states write two LoRA factors; colour says which state wrote a weight."""
    torch.manual_seed(0)
    rows, columns, rank, chunk = 14, 9, 2, 6
    spec = QPASpec(target_size=rank * (rows + columns), chunk_size=chunk, reps=2, zero_last=False)
    generator = QPAGenerator(spec)
    with torch.no_grad():
        features = generator.source()
    colours = mpl.colormaps["viridis"](torch.linspace(0.15, 0.95, spec.num_chunks))
    with canvas(path, size=(7.6, 4.3)) as figure:
        axes = figure.add_subplot()
        blank(axes, 15.2, 8.6)
        axes.text(0.1, 8.0, "label and circuit:\nbits as ±, p·2³ − 1", color=GREY, va="center")
        axes.text(6.3, 8.0, "chunks of 6 weights", color=GREY, va="center")
        axes.text(10.5, 8.0, "B (14 × 2) and A (2 × 9)", color=GREY, va="center")
        for state, colour in enumerate(colours):
            y = 7.0 - 0.68 * state
            signs = " ".join("+−"[bit == "0"] for bit in f"{state:03b}")
            feature = f"{features[state].item():+.2f}".replace("-", "−")
            axes.text(0.1, y, f"{signs}  {feature}", family="monospace", fontsize=10.5, va="center", color=INK)
            arrow(axes, (2.85, y), (3.55, y))
            arrow(axes, (5.35, y), (6.15, y))
            for place in range(chunk):
                if state * chunk + place < spec.target_size:
                    axes.add_patch(cell(6.3 + 0.5 * place, y - 0.25, 0.5, colour))
        box(axes, 3.6, 1.9, 1.7, 5.5, "the same\nsmall\nnetwork\nfor every\nrow", GREEN, fontsize=10)
        for index in range(spec.target_size):
            colour = colours[index // chunk]
            if index < rows * rank:
                axes.add_patch(cell(10.5 + 0.5 * (index % rank), 6.85 - 0.42 * (index // rank), 0.5, colour, 0.42))
            else:
                row, column = divmod(index - rows * rank, columns)
                axes.add_patch(cell(11.9 + 0.36 * column, 6.85 - 0.5 * row, 0.36, colour, 0.42))
        arrow(axes, (9.5, 4.6), (10.3, 4.6))
        axes.text(
            12.0, 4.6, "LoRA's update is BA.\nColour: the basis state\nthat wrote a weight.", va="center", color=INK
        )
        axes.text(0.1, 0.85, "trained: the circuit's 6 angles and the network's weights", color=GREY)
        axes.text(0.1, 0.25, "Quantum-PEFT has no network: columns of the circuit's orthogonal matrix are U and V "
                  "of U diag(l) Vᵀ.", color=GREY)  # fmt: skip


def cell(x, y, width, colour, height=None):
    return Rectangle((x, y), width, height or width, facecolor=colour, edgecolor="white", linewidth=0.8)


def adapter_picture(path):
    """An adapted layer in training, and after the export."""
    with canvas(path, size=(7.6, 3.9)) as figure:
        axes = figure.add_subplot()
        blank(axes, 15.2, 7.8)
        for left, title in ((0.0, "in training"), (8.8, "exported: a plain LoRA")):
            axes.text(left, 7.3, title, color=GREY, fontsize=11)
            axes.text(left + 0.2, 4.7, "x", fontsize=12, va="center", color=INK)
            box(axes, left + 1.2, 5.4, 3.3, 0.9, "W, frozen", GREY)
            box(axes, left + 1.2, 3.1, 1.3, 0.9, "A", VERMILION)
            box(axes, left + 3.2, 3.1, 1.3, 0.9, "B", VERMILION)
            arrow(axes, (left + 0.45, 4.8), (left + 1.15, 5.75))
            arrow(axes, (left + 0.45, 4.6), (left + 1.15, 3.65))
            arrow(axes, (left + 2.5, 3.55), (left + 3.15, 3.55))
            arrow(axes, (left + 4.5, 5.85), (left + 5.2, 4.9))
            arrow(axes, (left + 4.5, 3.55), (left + 5.2, 4.5))
            scale = "α/r" if title == "in training" else "1"  # an export folds the scale into B
            axes.text(left + 5.2, 3.75, f"× {scale}", va="center", color=GREY)
            axes.text(left + 5.4, 4.7, "+", fontsize=13, ha="center", va="center", color=INK)
            arrow(axes, (left + 5.65, 4.7), (left + 6.3, 4.7))
        box(axes, 2.0, 0.2, 3.6, 1.7, "generator\ncircuit and network:\nall that is trained", GREEN)
        arrow(axes, (2.25, 1.9), (2.25, 3.05), GREEN)
        arrow(axes, (3.85, 1.9), (3.85, 3.05), GREEN)
        box(axes, 0.1, 1.0, 1.2, 0.9, "seed", GREY, dashed=True)
        arrow(axes, (0.6, 1.9), (1.45, 3.05))
        axes.text(0.0, 0.55, "frozen random\npart of A", fontsize=8.5, va="center", color=GREY)
        arrow(axes, (6.7, 4.7), (8.6, 4.7), INK)
        axes.text(7.65, 5.0, "export", ha="center", color=INK)
        axes.text(
            10.0, 1.75, "A and B are stored numbers.\nNo circuit, no simulator, no qpeft.", va="center", color=INK
        )


def main():
    mpl.rcParams["svg.hashsalt"] = "qpeft"  # names inside the file that do not change from run to run
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
    for draw in (circuit_picture, engine_picture, generator_picture, adapter_picture):
        draw(IMAGES / f"concept_{draw.__name__.removesuffix('_picture')}.svg")


if __name__ == "__main__":
    main()
