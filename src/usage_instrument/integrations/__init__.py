"""One thin module for each framework or library, the only modules that import it. In come the framework's hooks, out go
calls of the middlewares and the tracker."""
