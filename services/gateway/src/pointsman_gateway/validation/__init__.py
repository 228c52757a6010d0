"""The validators of tasks, which accept or reject each choice of an answer, and the built-in guardrails."""
