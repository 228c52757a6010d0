"""Training jobs: a queue on disk that runs one trainer process at a time.

queue -> execution (trainer process, registration)
         folder (job.json, events.jsonl, input/, checkpoint/, out/)
"""
