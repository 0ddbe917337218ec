"""`INSTALLED_APPS = [..., "usage_instrument.integrations.django.panel"]`: the tables in the admin site, to look at.

Its models are unmanaged: `manage.py usage db create` makes the table, `manage.py usage db views` the view.
"""
