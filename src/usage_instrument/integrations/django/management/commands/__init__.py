"""The commands that `manage.py` has: one a file."""
