"""What an endpoint tells of itself: where it is written, what it is for, and which `tracks` no request comes by."""

from __future__ import annotations

from usage_instrument.capture.registry import Catalog, Feature, features_of


def source_of(endpoint: object) -> str | None:
    """Its `module:qualname`; None for what has none."""
    module, name = getattr(endpoint, "__module__", None), getattr(endpoint, "__qualname__", None)
    return f"{module}:{name}" if isinstance(module, str) and isinstance(name, str) else None


def first_line_of(endpoint: object) -> str | None:
    """The first line of its docstring."""
    text = getattr(endpoint, "__doc__", None) if hasattr(endpoint, "__qualname__") else None
    return (text.strip().partition("\n")[0].strip() or None) if isinstance(text, str) else None


def unreached(endpoint: object, catalog: Catalog) -> list[Feature]:
    """The features of a catalogue whose `tracks` is above the framework's decorator, which kept what is below it."""
    source, reached = source_of(endpoint), features_of(endpoint, catalog)
    if source is None or source.endswith("<lambda>"):  # so are all lambdas called
        return []
    return [feature for feature in catalog if feature.decorates == source and feature.name not in reached]
