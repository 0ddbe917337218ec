"""`usage-instrument demo`: a small app behind a real server, real traffic, and the table that fills."""
