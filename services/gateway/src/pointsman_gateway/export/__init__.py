"""The exporter: a process that writes the gateways' records (such as receipts and feedback) to Parquet files or an
OpenTelemetry collector.
"""
