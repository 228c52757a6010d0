"""Tracing: wrappers that create OpenTelemetry spans, which `bootstrap` puts around the stages."""
