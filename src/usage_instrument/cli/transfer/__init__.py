"""Bring and take data. In: files of counts. Out: rows of the tables, and the other way round."""
