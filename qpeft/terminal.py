"""What the commands share: a quiet terminal."""

from __future__ import annotations

import textwrap
import warnings


def quiet() -> None:
    """Leaves the terminal to our own progress display."""
    import transformers

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # of calls that peft makes
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def wrapped(text: str, width: int) -> str:
    """A note in lines of `width` characters, all but the first indented; words stay whole."""
    return textwrap.fill(text, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
