"""The console's data: decisions from the request log, paths with their evidence, engines, and adapters."""
