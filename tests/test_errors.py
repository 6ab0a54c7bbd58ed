import ast
import inspect
import re

import pytest

from annotate import errors


def test_the_tree_is_drawn_as_it_is():
    """Each class of the module stands in its docstring's tree, below its own base."""
    drawn, path = {}, []
    for line in errors.__doc__.splitlines():
        if found := re.search(r"[A-Z]\w+", line) if line.strip("│├└─ ") and "  " in line else None:
            path[found.start() // 4 :] = [found.group()]
            drawn[found.group()] = path[-2] if len(path) > 1 else "Exception"
    real = {
        name: each.__bases__[0].__name__
        for name, each in inspect.getmembers(errors, inspect.isclass)
        if issubclass(each, Exception)
    }
    assert drawn == real


def test_a_miss_without_a_near_name_lists_what_there_is():
    said = str(errors.UnknownName("engine", "zzz", ["light", "sam2"]))
    assert said == "no engine 'zzz'. There are: light, sam2"


def test_a_missing_package_names_its_cure():
    with pytest.raises(errors.MissingPackage, match="pip install no_such_package_at_all"):
        errors.needs("no_such_package_at_all")


def test_a_missing_extra_names_its_extra(monkeypatch):
    monkeypatch.setitem(errors.EXTRAS, "no_such_package_at_all", "sam2")
    with pytest.raises(errors.MissingPackage, match=r"pip install 'annotate-local\[sam2\]'"):
        errors.needs("no_such_package_at_all")


def test_every_error_of_ours_is_in_the_tree():
    tree = ast.parse(inspect.getsource(errors))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert all(issubclass(getattr(errors, c.name), errors.AnnotateError) for c in classes)
