"""Training jobs: one process at a time, in line, and never lost.

opening -> line -> running -> trainer | registering
                   folder (job.json, events.jsonl, input/, checkpoint/, out/)
"""
