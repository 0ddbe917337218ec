"""What both middlewares share: in comes a request and its response, out goes its feature, or the reason for none."""
