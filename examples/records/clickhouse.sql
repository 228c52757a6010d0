-- Views without duplicates, for the queries of docs/records.md; gcs() and azureBlobStorage() replace s3().
CREATE VIEW decisions AS
SELECT * FROM s3('https://BUCKET.s3.amazonaws.com/records/decisions/*/*/*.parquet', 'Parquet')
LIMIT 1 BY id
SETTINGS use_hive_partitioning = 1;

CREATE VIEW feedback AS
SELECT * FROM s3('https://BUCKET.s3.amazonaws.com/records/feedback/*/*/*.parquet', 'Parquet')
LIMIT 1 BY id
SETTINGS use_hive_partitioning = 1;
