"""What the commands share: a quiet terminal."""

from __future__ import annotations

import warnings


def quiet() -> None:
    """Leaves the terminal to our own progress display."""
    import transformers

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # of calls that peft makes
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
