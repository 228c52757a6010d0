"""Offline tools for a gateway configuration.

They write or import a configuration, train its classifier and the policy `predicted`, replay recorded decisions,
suggest examples, compare prices and invoices, and make data sets.
"""
