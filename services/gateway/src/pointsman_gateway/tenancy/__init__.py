"""Tenancy: who asks, and whether their limits and budgets hold; docs/keys.md says what is promised."""
