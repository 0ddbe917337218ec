"""What meets a framework: one thin module for each, and the only ones that import it."""
