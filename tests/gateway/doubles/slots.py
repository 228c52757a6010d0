"""Holds a slot of `Admission` for a request, as the pipeline does."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pointsman_gateway.domain import Request
from pointsman_gateway.pipeline.admission import Admission


@asynccontextmanager
async def slot(admission: Admission, request: Request) -> AsyncIterator[None]:
    """Holds a slot during the block; entering it raises the errors of `Admission.enter` and `Admission.wait`."""
    if not admission.enter(request):
        await admission.wait(request)
    try:
        yield
    finally:
        admission.leave(request)
