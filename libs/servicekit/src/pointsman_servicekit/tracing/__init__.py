"""OpenTelemetry traces. Nothing here is imported but `exporting`, until the environment asks for traces."""
