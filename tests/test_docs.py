"""The pages of the documentation: their Python runs, their commands exist, their links lead somewhere.

Pages with figures of their own to check are run by `test_readme.py`.
"""

import re
import shlex
from pathlib import Path
from textwrap import dedent

import pytest
import typer

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
