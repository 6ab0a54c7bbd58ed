"""Find plugins by name through entry points, and parse their options.

The built-in plugins are registered exactly as third-party ones. Listing the names imports no
plugin. A plugin is a dataclass; its fields with a default are its options.
"""

import dataclasses
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from annotate.errors import AnnotateError, UnknownName

GROUP_NOUNS = {
    "annotate.detectors": "detector",
    "annotate.propagators": "engine",
    "annotate.segmenters": "segmenter",
    "annotate.formats": "format",
}


@cache
def _entry_points(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda p: p.name)}


def names(group: str) -> list[str]:
    """The installed plugins of `group`, sorted, none of them imported."""
    return list(_entry_points(group))


def load_class(group: str, name: str) -> type[Any]:
    """The class that `name` stands for.

    Raises:
        UnknownName: when nothing is installed under that name; names the nearest.
    """
    if name not in _entry_points(group):
        raise UnknownName(GROUP_NOUNS.get(group, "plugin"), name, names(group))
    plugin: type[Any] = _entry_points(group)[name].load()
    return plugin


RUNTIME_ONLY = {
    "aside": True
}  # metadata of an option that does not shape the result: a time-out, a budget


def option_fields(plugin: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a plugin that a person may set: those with a default."""
    unset = (dataclasses.MISSING, dataclasses.MISSING)
    fields = dataclasses.fields(plugin)
    return {f.name: f for f in fields if (f.default, f.default_factory) != unset}


def nested_detectors(plugin: Any) -> Iterator[Any]:
    """The detectors that a detector holds in its fields, by themselves or by name."""
    for field in dataclasses.fields(plugin):
        value = getattr(plugin, field.name)
        held = value.values() if isinstance(value, Mapping) else [value]
        yield from (each for each in held if hasattr(each, "propose"))


def check_options(plugin: type[Any], name: str, option_names: Iterable[str]) -> None:
    """Refuse an option that the plugin does not have.

    Raises:
        UnknownName: names the nearest.
    """
    for key in option_names:
        if key not in option_fields(plugin):
            raise UnknownName(f"option of {name}", key, option_fields(plugin))


def make(group: str, name: str, *family_args: Any, **options: Any) -> Any:
    """The plugin `name`, made of what its family gives each one and of its own options.

    Raises:
        UnknownName: nothing is installed under that name, or it has no such option.
    """
    plugin = load_class(group, name)
    check_options(plugin, name, options)
    return plugin(*family_args, **options)


def parse_options(plugin: type[Any], name: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """Option texts from the command line, as the types that the plugin's fields declare.

    Raises:
        UnknownName: for an option that the plugin does not have; names the nearest.
        AnnotateError: for a text that is not of the field's type.
    """
    check_options(plugin, name, texts)
    hints = typing.get_type_hints(plugin)
    return {key: _parse_value(hints[key], text, f"{name}: {key}") for key, text in texts.items()}


def _parse_value(type_hint: Any, text: str, where: str) -> Any:
    kinds = typing.get_args(type_hint) if isinstance(type_hint, types.UnionType) else (type_hint,)
    if type(None) in kinds and text.lower() == "none":
        return None
    if bool in kinds and text.lower() in {"true", "yes", "1", "false", "no", "0"}:
        return text.lower() in {"true", "yes", "1"}
    for kind in (int, float, str):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
    expected = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise AnnotateError(f"{where} must be {expected}, got {text!r}")


def list_plugins(group: str) -> list[tuple[str, str, str]]:
    """For each plugin of `group`: its name, what it is, its options with their defaults.

    A plugin that cannot be imported says why in place of what it is.
    """
    rows = []
    for name in names(group):
        try:
            plugin = load_class(group, name)
        except ImportError as error:
            rows.append((name, f"cannot be loaded: {error}", ""))
            continue
        told = (plugin.__doc__ or "").strip().splitlines()
        defaults = [f"{key}={field.default}" for key, field in option_fields(plugin).items()]
        rows.append((name, told[0] if told else "", ", ".join(defaults)))
    return rows
