"""The request log: keeps the decision and receipt of every request in Redis, and users' feedback on answers.
Policies choose paths by the ratings, costs and latencies that it counts ("evidence").
"""
