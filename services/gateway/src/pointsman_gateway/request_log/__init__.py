"""The request log: every decision and receipt in Redis, feedback on answers, and the evidence on paths."""
