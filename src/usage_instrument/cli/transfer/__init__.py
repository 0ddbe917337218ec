"""Loads and dumps counts. In: files. Out: rows of the tables, and the other way round."""
