-- External tables, and views without duplicates over them, for the queries of docs/records.md.
CREATE EXTERNAL TABLE dataset.decision_files
WITH PARTITION COLUMNS (day DATE, tenant STRING)
OPTIONS (
  format = 'PARQUET',
  uris = ['gs://BUCKET/records/decisions/*'],
  hive_partition_uri_prefix = 'gs://BUCKET/records/decisions'
);

CREATE VIEW dataset.decisions AS
SELECT * FROM dataset.decision_files WHERE TRUE
QUALIFY ROW_NUMBER() OVER (PARTITION BY id ORDER BY time) = 1;

CREATE EXTERNAL TABLE dataset.feedback_files
WITH PARTITION COLUMNS (day DATE, tenant STRING)
OPTIONS (
  format = 'PARQUET',
  uris = ['gs://BUCKET/records/feedback/*'],
  hive_partition_uri_prefix = 'gs://BUCKET/records/feedback'
);

CREATE VIEW dataset.feedback AS
SELECT * FROM dataset.feedback_files WHERE TRUE
QUALIFY ROW_NUMBER() OVER (PARTITION BY id ORDER BY time) = 1;
