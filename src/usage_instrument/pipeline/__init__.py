"""From memory to a committed row: in come uses, out go numbered batches, each applied exactly once."""
