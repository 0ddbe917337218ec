"""What the application calls: in comes a call of the host's code, out goes a use to the declared feature's recorder."""
