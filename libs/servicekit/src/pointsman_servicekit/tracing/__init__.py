"""OpenTelemetry traces; only `exporting` is imported until the environment asks for traces."""
