"""The request log in the Parquet files of the exporter, read by DuckDB."""
