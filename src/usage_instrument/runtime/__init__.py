"""The process around us: forks and exits, real threads, waiting, call sites. Nothing here knows about usage."""
