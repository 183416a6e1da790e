"""The stub says what the module has: every name, every signature, every first line of a doc."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

import thalweg

_thalweg: Any = importlib.import_module("thalweg._thalweg")

STUB = ast.parse((Path(thalweg.__file__).parent / "__init__.pyi").read_text())
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
FUNCTIONS = {node.name: node for node in STUB.body if isinstance(node, ast.FunctionDef)}
INNER = ast.parse((Path(thalweg.__file__).parent / "_thalweg.pyi").read_text())
PRIVATE = {node.name: node for node in INNER.body if isinstance(node, ast.ClassDef)}
# Python itself gives these to every class, whatever the class.
SLOTS = {"__getitem__", "__contains__", "__len__", "__iter__", "__next__", "__repr__"}


def first_line(doc: str | None) -> str:
    return (doc or "").strip().split("\n\n")[0].replace("\n", " ").split(". ")[0]


def signature_of_stub(node: ast.FunctionDef) -> list[tuple[str, str, str | None]]:
    arguments = node.args
    found: list[tuple[str, str, str | None]] = []
    positional = arguments.args
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    for argument, default in zip(positional, defaults, strict=True):
        found.append((argument.arg, "positional", ast.unparse(default) if default else None))
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        found.append((argument.arg, "keyword", ast.unparse(default) if default else None))
    if arguments.kwarg:
        found.append((arguments.kwarg.arg, "rest", None))
    return found


def signature_at_run_time(value: Any) -> list[tuple[str, str, str | None]]:
    kinds: dict[inspect._ParameterKind, str] = {
        inspect.Parameter.POSITIONAL_ONLY: "positional",
        inspect.Parameter.POSITIONAL_OR_KEYWORD: "positional",
        inspect.Parameter.KEYWORD_ONLY: "keyword",
        inspect.Parameter.VAR_KEYWORD: "rest",
    }
    return [
        (p.name, kinds[p.kind], None if p.default is inspect.Parameter.empty else repr(p.default))
        for p in inspect.signature(value).parameters.values()
    ]


def test_the_names_are_the_same() -> None:
    exported = next(
        ast.literal_eval(node.value)
        for node in STUB.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"
    )
    assert sorted(exported) == sorted(thalweg.__all__)
    classes = {name for name in vars(_thalweg) if isinstance(vars(_thalweg)[name], type)}
    assert set(CLASSES) == {name for name in classes if not name.startswith("_")}
    assert set(PRIVATE) == {name for name in classes if name.startswith("_")}
    assert set(FUNCTIONS) == {name for name in vars(_thalweg) if name.islower() and not name.startswith("_")}


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_has_the_methods_of_its_stub(name: str) -> None:
    found, node = getattr(thalweg, name), CLASSES[name]
    assert found.__module__ == "thalweg"
    assert first_line(found.__doc__) == first_line(ast.get_docstring(node))
    methods = {method.name: method for method in node.body if isinstance(method, ast.FunctionDef)}
    public = {member for member, value in vars(found).items() if not member.startswith("__")}
    assert public == {member for member in methods if not member.startswith("__")}
    for member, method in methods.items():
        value = inspect.getattr_static(found, member)
        is_property = any(isinstance(d, ast.Name) and d.id == "property" for d in method.decorator_list)
        assert inspect.isgetsetdescriptor(value) == is_property, member
        if not member.startswith("_"):
            assert first_line(inspect.unwrap(getattr(value, "__func__", value)).__doc__) == first_line(ast.get_docstring(method)), member
        if not is_property and member not in SLOTS:
            assert signature_at_run_time(getattr(found, member)) == signature_of_stub(method), member


@pytest.mark.parametrize("name", PRIVATE)
def test_a_private_class_has_the_methods_of_its_stub(name: str) -> None:
    found = getattr(_thalweg, name)
    methods = {method.name: method for method in PRIVATE[name].body if isinstance(method, ast.FunctionDef)}
    members = {member for member in vars(found) if not member.startswith("__")}
    assert members == {member for member in methods if not member.startswith("__")}
    for member, method in methods.items():
        if not inspect.isgetsetdescriptor(inspect.getattr_static(found, member)) and member != "__init__":
            assert signature_at_run_time(getattr(found, member)) == signature_of_stub(method), member


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_the_signature_of_its_stub(name: str) -> None:
    assert first_line(getattr(thalweg, name).__doc__) == first_line(ast.get_docstring(FUNCTIONS[name]))
    assert signature_at_run_time(getattr(thalweg, name)) == signature_of_stub(FUNCTIONS[name])


def test_every_option_of_a_merge_is_a_keyword_of_plan() -> None:
    keywords = [name for name, _, _ in signature_of_stub(FUNCTIONS["plan"])]
    assert [name.removesuffix("_") for name in keywords[6:]] == list(_thalweg._OPTION_NAMES)


def test_import_brings_nothing_else_along() -> None:
    import os
    import subprocess
    import sys

    script = "import sys; before = set(sys.modules); import thalweg; print(*(set(sys.modules) - before))"
    site = str(Path(thalweg.__file__).parents[1])
    # Without `site`, which imports some modules by itself.
    words = [sys.executable, "-S", "-c", script]
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": site}, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"__future__", "thalweg", "thalweg._errors", "thalweg._thalweg"}


def test_what_is_imported_later_is_there() -> None:
    assert {"Average", "from_pretrained"} <= set(dir(thalweg))
    assert thalweg.Average.__module__ == "thalweg._average"
    with pytest.raises(AttributeError, match="no attribute 'average'"):
        getattr(thalweg, "average")
