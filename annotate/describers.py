"""What describes pictures in words: a detector that can also caption."""

from collections.abc import Mapping
from typing import Any, Protocol

from annotate import detect, plugins
from annotate.errors import AnnotateError
from annotate.records import Picture, Vocabulary

_NOTHING = Vocabulary("nothing to look for", {"object": {}}, "")


class Describer(Protocol):
    """Anything with a `caption`."""

    def caption(self, image: Picture) -> str:
        """What is to be seen on a picture, (H, W, 3) RGB, in words."""


def load(name: str, options: Mapping[str, str]) -> tuple[Describer, Mapping[str, Any]]:
    """The installed detector `name` as a describer, and the settings that shape what it says.

    Raises:
        UnknownName: no such detector or option.
        AnnotateError: it finds boxes, but does not describe.
    """
    plugin = plugins.find(detect.GROUP, name)
    if not hasattr(plugin, "caption"):
        raise AnnotateError(f"{name} finds boxes, but describes nothing: it has no `caption`")
    chosen: Any = detect.load(name, _NOTHING, **detect.parse_options(name, options))
    return chosen, detect.settings(chosen)
