import ast
import inspect
import re

import pytest

from annotate import errors


def test_the_docstring_draws_the_real_tree():
    """Each class of the module is in the tree of the docstring, below its own base class."""
    drawn, path = {}, []
    for line in errors.__doc__.splitlines():
        is_row = line.strip("│├└─ ") and "  " in line
        if match := re.search(r"[A-Z]\w+", line) if is_row else None:
            path[match.start() // 4 :] = [match.group()]
            drawn[match.group()] = path[-2] if len(path) > 1 else "Exception"
    real = {
        name: each.__bases__[0].__name__
        for name, each in inspect.getmembers(errors, inspect.isclass)
        if issubclass(each, Exception)
    }
    assert drawn == real


def test_an_unknown_name_without_a_near_one_lists_the_choices():
    message = str(errors.UnknownName("engine", "zzz", ["light", "sam2"]))
    assert message == "no engine 'zzz'. There are: light, sam2"


def test_a_missing_package_names_its_install_command():
    with pytest.raises(errors.MissingPackage, match="pip install no_such_package_at_all"):
        errors.needs("no_such_package_at_all")


def test_a_missing_package_of_an_extra_names_the_extra(monkeypatch):
    monkeypatch.setitem(errors.EXTRAS, "no_such_package_at_all", "sam2")
    with pytest.raises(errors.MissingPackage, match=r"pip install 'annotate-local\[sam2\]'"):
        errors.needs("no_such_package_at_all")


def test_every_error_of_the_package_inherits_from_annotate_error():
    tree = ast.parse(inspect.getsource(errors))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert all(issubclass(getattr(errors, c.name), errors.AnnotateError) for c in classes)
