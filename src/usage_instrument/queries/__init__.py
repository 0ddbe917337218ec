"""Analyst queries, one per file. In: arguments and Tables. Out: a `Select` for any Connection or Session."""
# ruff: noqa: I001 - in the order of the help page

from __future__ import annotations

from .top_features import top_features as top_features
from .user_features import user_features as user_features
from .adoption import adoption as adoption
from .unused_features import unused_features as unused_features
from .power_users import power_users as power_users
from .trend import trend as trend
from .active_users import active_users as active_users
from .rhythm import rhythm as rhythm
from .retention import retention as retention
from .lifecycle import lifecycle as lifecycle
from .time_to_adopt import time_to_adopt as time_to_adopt
from .funnel import funnel as funnel
from .stickiness import stickiness as stickiness
from .groups import groups as groups
from .spikes import spikes as spikes
from .drops import drops as drops
from .silent import silent as silent
from .variants import variants as variants
from .dimensions import dimensions as dimensions
from .related_features import related_features as related_features
from .recommend import recommend as recommend
from .experiment import experiment as experiment
from .experiments import experiments as experiments
from .hours import check_hours as check_hours
from .months import check_days as check_days
from .questions import QUESTIONS as _QUESTIONS

__all__ = sorted(
    ["check_days", "check_hours", "experiment", "experiments", *(question.select.__name__ for question in _QUESTIONS)]
)
