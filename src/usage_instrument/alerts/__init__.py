"""Watches the counts. In: rules of a file, and Tables. Out: one report when something begins, and one when it ends."""
