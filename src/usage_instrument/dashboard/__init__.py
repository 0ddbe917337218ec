"""The dashboard: requests in, read-only pages rendered on the server out, closed to visitors without permission.

`usage_instrument.dashboard.asgi.Dashboard` and `usage_instrument.dashboard.wsgi.Dashboard` are apps to mount.
"""
