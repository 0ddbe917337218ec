"""The audit trail: who accessed what, row by row, in chains that show whatever was changed, removed or inserted."""
