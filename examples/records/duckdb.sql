-- Views without duplicates, for the queries of docs/records.md; replace 'records' by the exporter's target.
-- Without its type, DuckDB would read a tenant 12 as a number.
CREATE VIEW decisions AS
SELECT DISTINCT ON (id) *
FROM read_parquet('records/decisions/*/*/*.parquet', hive_types = {'day': DATE, 'tenant': VARCHAR}, union_by_name = true);

CREATE VIEW feedback AS
SELECT DISTINCT ON (id) *
FROM read_parquet('records/feedback/*/*/*.parquet', hive_types = {'day': DATE, 'tenant': VARCHAR}, union_by_name = true);
