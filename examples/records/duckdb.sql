-- Views without duplicates, for the queries of docs/records.md; replace 'records' by the exporter's target.
CREATE VIEW decisions AS
SELECT DISTINCT ON (id) *
FROM read_parquet('records/decisions/*/*/*.parquet', hive_partitioning = true, union_by_name = true);

CREATE VIEW feedback AS
SELECT DISTINCT ON (id) *
FROM read_parquet('records/feedback/*/*/*.parquet', hive_partitioning = true, union_by_name = true);
