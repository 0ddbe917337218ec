"""`usage-instrument demo`: a small app under a real server, real traffic, and the table that fills."""
