"""`pointsman conformance`: tests that anybody can run against an engine or a fleet, whether Pointsman serves it or not.

`swap` is the only one so far: it finds answers of the wrong adapter while adapters are loaded, replaced and unloaded.
"""
