"""Collects the data that the web console shows: logged decisions, spending, and the states of paths, tasks, engines and
adapters.
"""
