"""The gateway: chooses a path (a model with its adapter and prompt) for each request, answers it, and meters the cost
of the answer.
"""
