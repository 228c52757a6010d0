"""Training jobs: a queue on disk that runs one trainer process at a time.

`job` defines jobs and checks requests, `queue` decides which job runs, `execution` runs a job's trainer and registers
the adapter, and `folder` stores a job's files: job.json, events.jsonl, input/, checkpoint/ and out/.
"""
