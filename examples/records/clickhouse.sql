-- Views without duplicates, for the queries of docs/records.md; gcs() and azureBlobStorage() replace s3().
-- The tenant is taken from the path as text, because ClickHouse would read 007 as the number 7; `union` gives the view
-- every column, also if the first file is older than the column.
CREATE VIEW decisions AS
SELECT * REPLACE (extract(_path, '/tenant=([^/]+)/') AS tenant)
FROM s3('https://BUCKET.s3.amazonaws.com/records/decisions/*/*/*.parquet', 'Parquet')
LIMIT 1 BY id
SETTINGS use_hive_partitioning = 1, schema_inference_mode = 'union';

CREATE VIEW feedback AS
SELECT * REPLACE (extract(_path, '/tenant=([^/]+)/') AS tenant)
FROM s3('https://BUCKET.s3.amazonaws.com/records/feedback/*/*/*.parquet', 'Parquet')
LIMIT 1 BY id
SETTINGS use_hive_partitioning = 1, schema_inference_mode = 'union';
