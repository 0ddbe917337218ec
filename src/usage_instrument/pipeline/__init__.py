"""From memory to a committed row: uses come in, numbered batches go out, each applied exactly once."""
