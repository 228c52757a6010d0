"""The request path: one `RequestRun` for each request for an answer, with admission, guardrails and sinks around it."""
