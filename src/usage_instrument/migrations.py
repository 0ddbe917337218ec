"""A plugin that Alembic loads on its own: it corrects what autogenerate finds for the tables.

It is active unless `autogenerate_plugins` excludes `alembic.autogenerate.*`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext
    from alembic.operations.ops import UpgradeOps
    from alembic.runtime.plugins import Plugin
    from alembic.util import PriorityDispatchResult


def setup(plugin: Plugin) -> None:
    """Register the comparator. Alembic calls it while it is being imported, so it imports nothing else."""
    from alembic.util import DispatchPriority

    plugin.add_autogenerate_comparator(_correct, "autogenerate", priority=DispatchPriority.LAST)


def _correct(context: AutogenContext, upgrade: UpgradeOps) -> PriorityDispatchResult:
    from alembic.util import PriorityDispatchResult

    from .database.alembic_operations import correct

    correct(context, upgrade)
    return PriorityDispatchResult.CONTINUE


class _Plugins(ModuleType):
    """Alembic 1.18 iterates over the entry point's module, later releases use the module itself."""

    def __iter__(self) -> Iterator[ModuleType]:
        yield self


sys.modules[__name__].__class__ = _Plugins
