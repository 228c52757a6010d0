"""Validates answers: each validator accepts or refuses every choice of an answer."""
