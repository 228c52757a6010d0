"""The stages that every request passes, from admission to the receipt; one `RequestRun` carries each request through
them.
"""
