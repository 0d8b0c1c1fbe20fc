"""Lets the documentation show the example of a docstring as code: griffe knows sections named "Examples:" alone."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Reads a docstring's section "Example:" as "Examples:"."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
