"""The pages of the documentation: their Python runs, their commands exist, their links lead somewhere.

Pages with figures of their own to check are run by `test_readme.py`.
"""

import importlib
import re
import shlex
from pathlib import Path
from textwrap import dedent

import pytest
import typer
from mkdocs.commands.build import build
from mkdocs.config import load_config
from nbformat import write
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from qpeft.cli import app
from qpeft.engines import ENGINES
from qpeft.qcircuits import ANSATZE

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN_ELSEWHERE = {"README.md", "docs/engines.md", "docs/methods.md", "docs/quantum-peft.md"}  # by test_readme.py

# A fence in any indentation; `<!-- not run: REASON -->` on the line above it keeps the block from being run.
FENCE = re.compile(
    r"(?:^ *<!-- not run: (?P<reason>[^\n]+?) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)


def name(page):
    return page.relative_to(ROOT).as_posix()


def fences(page, language):
    """The page's blocks of a language: first line, code, and why it is not run, if it is not."""
    text = page.read_text(encoding="utf8")
    for found in FENCE.finditer(text):
        if found["language"] == language:
            yield text.count("\n", 0, found.start("code")) + 1, dedent(found["code"]), found["reason"]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_block_escapes_the_tests(page):
    text = page.read_text(encoding="utf8")
    found = list(FENCE.finditer(text))
    assert 2 * len(found) == len(re.findall(r"^ *(?:```|~~~)", text, re.MULTILINE))
    assert {block["language"] for block in found} <= {"python", "console", "text", "toml", "json"}
    assert text.count("<!-- not run") == sum(block["reason"] is not None for block in found)


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    """What a page registers is forgotten after it."""
    for registry in (ENGINES, ANSATZE):
        monkeypatch.setattr(registry, "_entries", dict(registry))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(fences(page, "python")) and name(page) not in RUN_ELSEWHERE], ids=name
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for line, code, reason in fences(page, "python"):
        compiled = compile("\n" * (line - 1) + code, str(page), "exec")  # a traceback names the page's own line
        if reason is None:
            exec(compiled, names)


def commands(page):
    """Each `$ qpeft ...` of a page, split into words."""
    for line, code, _ in fences(page, "console"):
        for command in re.findall(r"^\$ (?:\S+ -m )?qpeft (.*)$", code.replace("\\\n", " "), re.MULTILINE):
            yield pytest.param(shlex.split(command, comments=True), id=f"{name(page)}:{line}: {command.split('  ')[0]}")


@pytest.mark.parametrize("words", [command for page in PAGES for command in commands(page)])
def test_command_exists(words):
    parse(typer.main.get_command(app), "qpeft", words)


def parse(command, called, words, parent=None):
    """Parses the words as the command line does, without running anything."""
    context = command.make_context(called, list(words), parent=parent)
    if hasattr(command, "resolve_command"):
        called, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
        parse(command, called, words, context)


@pytest.mark.parametrize("words", [["trian"], ["train", "--stpes", "3"], ["circuit", "shwo"], ["count", "--rank", "x"]])
def test_a_command_that_does_not_exist_is_found(words):
    with pytest.raises(Exception, match=r"No such|valid integer"):
        parse(typer.main.get_command(app), "qpeft", words)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page):
    text = FENCE.sub("", page.read_text(encoding="utf8"))
    links = re.findall(r"\]\(([^)\s]+)\)|<img [^>]*src=\"([^\"]+)\"", text)
    targets = {target.partition("#")[0] for pair in links for target in pair if target and "://" not in target}
    assert [target for target in targets if target and not (page.parent / target).exists()] == []


@pytest.mark.parametrize(
    "room", ["qpeft", "qpeft.qcircuits", "qpeft.qcircuits.interop", "qpeft.generators", "qpeft.adapters"]
)
def test_every_public_name_has_its_place_in_the_api(room):
    pages = "\n".join(page.read_text(encoding="utf8") for page in (ROOT / "docs" / "api").glob("*.md"))
    shown = {path.rpartition(".")[2] for path in re.findall(r"^::: (\S+)$", pages, re.MULTILINE)}
    assert set(importlib.import_module(room).__all__) - shown == set()


PIXEL = "iVBORw0KGgo="
NOTEBOOK = new_notebook(cells=[
    new_markdown_cell("# A question\n\nWhy it is asked.\n\n[Engines](../docs/engines.md)"),
    new_code_cell("print(1)", outputs=[
        new_output("stream", name="stdout", text="\x1b[1m1\x1b[0m\n"),
        new_output("display_data", {"image/png": PIXEL, "text/plain": "<Figure>"}),
        new_output("execute_result", {
            "text/html": '<style scoped>\n.a {}\n</style>\n<table border="1"></table>', "text/plain": "a",
        }),
    ]),
    new_code_cell(""),
])  # fmt: skip


def test_a_notebook_becomes_a_page(tmp_path):
    (tmp_path / "mkdocs.yml").write_text(
        f"site_name: test\nplugins: []\nhooks: ['{ROOT}/scripts/mkdocs_notebooks.py']\n"
        "nav: [Notebooks: [notebooks/index.md], engines.md]\n"
    )
    (tmp_path / "docs" / "notebooks").mkdir(parents=True)
    (tmp_path / "docs" / "engines.md").write_text("# Engines\n")
    (tmp_path / "docs" / "notebooks" / "index.md").write_text("# Notebooks\n\n<!-- the notebooks -->\n")
    (tmp_path / "notebooks").mkdir()
    write(NOTEBOOK, tmp_path / "notebooks" / "01_question.ipynb")
    build(load_config(str(tmp_path / "mkdocs.yml"), strict=True))
    site = tmp_path / "site" / "notebooks"
    listed, page = ((site / name).read_text(encoding="utf8") for name in ("index.html", "01_question/index.html"))
    assert '<a href="01_question/">A question</a>' in listed and "<p>Why it is asked.</p>" in listed
    assert '<a href="../../engines/">Engines</a>' in page  # also when it stands in the repository, beside docs/
    for shown in (
        "print(1)",
        '<code class="language-text">1\n',
        'src="../01_question_1_1.png"',
        'alt="Picture 1 of the section A question"',
        "<table></table>",
    ):
        assert shown in page
    assert (site / "01_question_1_1.png").read_bytes().startswith(b"\x89PNG")
