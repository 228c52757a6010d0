"""Assigns each request to a task, by rules or by the classifier. `fitting` learns the classifier from examples."""
