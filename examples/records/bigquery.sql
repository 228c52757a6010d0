-- External tables, and views without duplicates over them, for the queries of docs/records.md (whose default dataset is
-- `dataset`). Without the columns, BigQuery would take those of one file, which may be older than some columns.
CREATE EXTERNAL TABLE dataset.decision_files (
  id STRING, time TIMESTAMP, request_id STRING, key STRING, model STRING, outcome STRING, fault STRING,
  prompt_tokens INT64, completion_tokens INT64, cached_tokens INT64, cost_usd FLOAT64, seconds FLOAT64,
  first_token_seconds FLOAT64, revision STRING, task STRING, stage STRING, path STRING, kind STRING,
  fingerprint STRING, reason STRING, requested STRING, escalated_from STRING, cached STRING, engine STRING,
  text STRING, evidence_key STRING, confidence FLOAT64, expected_cost_usd FLOAT64, entry STRING
)
WITH PARTITION COLUMNS (day DATE, tenant STRING)
OPTIONS (
  format = 'PARQUET',
  uris = ['gs://BUCKET/records/decisions/*'],
  hive_partition_uri_prefix = 'gs://BUCKET/records/decisions'
);

CREATE VIEW dataset.decisions AS
SELECT * FROM dataset.decision_files WHERE TRUE
QUALIFY ROW_NUMBER() OVER (PARTITION BY id ORDER BY time) = 1;

CREATE EXTERNAL TABLE dataset.feedback_files (
  id STRING, time TIMESTAMP, decision STRING, right_task STRING, rating FLOAT64, entry STRING
)
WITH PARTITION COLUMNS (day DATE, tenant STRING)
OPTIONS (
  format = 'PARQUET',
  uris = ['gs://BUCKET/records/feedback/*'],
  hive_partition_uri_prefix = 'gs://BUCKET/records/feedback'
);

CREATE VIEW dataset.feedback AS
SELECT * FROM dataset.feedback_files WHERE TRUE
QUALIFY ROW_NUMBER() OVER (PARTITION BY id ORDER BY time) = 1;
