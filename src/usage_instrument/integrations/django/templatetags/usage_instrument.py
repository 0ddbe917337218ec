"""`{% load usage_instrument %}`, then `{{ menu|most_used_first:"feature" }}`."""

from __future__ import annotations

from django import template

from usage_instrument.integrations.most_used import most_used_first

register = template.Library()
register.filter("most_used_first", most_used_first)
