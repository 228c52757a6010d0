"""Validates answers by a task's validators, each of which accepts or rejects every choice; and built-in guardrails."""
