"""`pointsman conformance`: tests that anybody can run against an engine or a fleet, whether Pointsman serves it or not.

The only test so far is `swap`, which finds answers of the wrong adapter while adapters are loaded, replaced and
unloaded.
"""
