"""What the API pages need to know of the house's docstrings: extensions of griffe, which reads the code for them."""

import ast
import dataclasses
import importlib
import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Reads a docstring's section "Example:" as "Examples:", the one that griffe knows."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)


class Settings(griffe.Extension):
    """Documents a field `name: type = option(default, "help")` by its default and its help."""

    def on_attribute_instance(
        self, *, node: ast.AST | griffe.ObjectNode, attr: griffe.Attribute, **kwargs: Any
    ) -> None:
        call = getattr(node, "value", None)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "option":
            attr.value = ast.unparse(call.args[0])
            owner = getattr(importlib.import_module(attr.module.path), attr.parent.name)
            (text,) = (field.metadata["help"] for field in dataclasses.fields(owner) if field.name == attr.name)
            attr.docstring = griffe.Docstring(text.replace("[", r"\["), parent=attr)  # no reference
