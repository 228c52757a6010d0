"""Tests of engines and fleets that others run; `pointsman conformance swap` is the first."""
