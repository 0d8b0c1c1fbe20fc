"""A hook of mkdocs: the committed notebooks, with the outputs they were committed with, as pages of the documentation.

Each becomes Markdown (prose as it is, code in fences, tables, pictures), so that it has the site's own look and search,
and its links are checked like any other's. Nothing is executed.
"""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbformat import read

LIST = "<!-- the notebooks -->"  # replaced by links, on the page that has it
PICTURES = {"image/svg+xml": "svg", "image/png": "png"}  # the first that an output has is shown
STYLE, TABLE = re.compile(r"<style scoped>.*?</style>\n", re.DOTALL), re.compile(r"<table [^>]*>")  # of data frames
HEADING, UNSAFE = re.compile(r"^#+ +(.+)$", re.MULTILINE), re.compile(r"[\[\]*`_]")
CONTROL_CODES = re.compile(r"\x1b\[[0-9;]*m")


def notebooks(config: MkDocsConfig) -> list[Path]:
    """Those of the folder beside mkdocs.yml."""
    return sorted(Path(config.config_file_path).with_name("notebooks").glob("*.ipynb"))


def on_config(config: MkDocsConfig) -> None:
    """Adds the pages to the section "Notebooks"."""
    for section in config.nav or []:
        if "Notebooks" in section:
            section["Notebooks"] += [f"notebooks/{path.stem}.md" for path in notebooks(config)]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds the pages and their pictures."""
    for path in notebooks(config):
        parts: list[str] = []
        heading, drawn = path.stem, 0  # of the section, and the pictures that it has so far
        for number, cell in enumerate(read(path, as_version=4).cells):
            source = cell["source"]
            if cell["cell_type"] == "markdown":
                parts.append(source.replace("](../docs/", "](../"))
                if found := HEADING.findall(source):
                    heading, drawn = UNSAFE.sub("", found[-1]), 0
            elif cell["cell_type"] == "code" and source:
                parts.append(f"```python\n{source}\n```")
                for place, output in enumerate(cell["outputs"]):
                    drawn += bool(PICTURES.keys() & output.get("data", {}).keys())
                    alternative = f"Picture {drawn} of the section {heading}"
                    parts += shown(output, f"{path.stem}_{number}_{place}", alternative, files, config)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content="\n\n".join(parts) + "\n"))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts the list of notebooks, each with its first paragraph, where a page asks for it."""
    if LIST not in markdown:
        return markdown
    entries = []
    for path in notebooks(config):
        title, _, rest = read(path, as_version=4).cells[0]["source"].partition("\n")
        first = rest.strip().partition("\n\n")[0].replace("](../docs/", "](../")
        entries.append(f"**[{title.lstrip('# ')}]({path.stem}.md)**\n\n{first}")
    return markdown.replace(LIST, "\n\n".join(entries))


def shown(
    output: dict[str, Any], name: str, alternative: str, files: Files, config: MkDocsConfig
) -> Iterator[str]:  # fmt: skip
    """One output as Markdown: its richest form that needs no script; a picture has a text for who cannot see it."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    for kind, suffix in PICTURES.items():
        if kind in data:
            content = data[kind] if suffix == "svg" else base64.b64decode(data[kind])
            files.append(File.generated(config, f"notebooks/{name}.{suffix}", content=content))
            yield f"![{alternative}]({name}.{suffix})"
            return
    for kind in ("text/markdown", "text/html"):
        if kind in data:
            yield TABLE.sub("<table>", STYLE.sub("", data[kind]))
            return
    text = CONTROL_CODES.sub("", data.get("text/plain", "")).strip("\n")
    if text:
        yield f"```text\n{text}\n```"
