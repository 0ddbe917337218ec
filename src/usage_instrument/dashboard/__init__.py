"""The pages that show what people use: read-only, rendered on the server, closed to whoever may not look.

`usage_instrument.dashboard.asgi.Dashboard` and `usage_instrument.dashboard.wsgi.Dashboard` are apps to mount.
"""
