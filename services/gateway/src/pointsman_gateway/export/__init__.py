"""The exporter: a process that writes the records of the gateways on its machine to Parquet files."""
