"""The default that ships in the package: a small language model, and a text every Python installation carries.

The model (GPT-2 architecture, 1.1 million parameters, own byte-level BPE) was trained on the docstrings of the standard
library by `scripts/make_embedded_model.py`. The text is the language reference behind Python's `help()`.
"""

from __future__ import annotations

from pathlib import Path

from qpeft.errors import ConfigError

MODEL_FOLDER = Path(__file__).parent / "model"
NAME = "embedded"


def language_reference() -> list[str]:
    """The topics of `pydoc_data.topics`, in alphabetical order (about 0.5 MB).

    Raises:
        ConfigError: This Python lacks the module.
    """
    try:
        from pydoc_data import topics
    except ImportError:
        raise ConfigError(
            "this Python has no pydoc_data.topics, the text of the demo (some distributions package it apart, e.g. as "
            "python3-doc); use another Python, or give --data"
        ) from None
    return [text for _, text in sorted(topics.topics.items())]
