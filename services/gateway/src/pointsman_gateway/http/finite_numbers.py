"""Python reads more numbers than JSON has: NaN, Infinity, and 1e999 as if it were that. No engine can be told one."""

import json
import math
from typing import Any

from pointsman_servicekit.errors import InvalidArgument

from pointsman_gateway.http.places import first_place

_encode = json.JSONEncoder(allow_nan=False, check_circular=False).encode


def refuse_infinite(passed_on: Any, within: str = "") -> None:
    """Of what goes to an engine as it came; `within` is where it stands. Raises InvalidArgument with the place."""
    try:
        _encode(passed_on)
    except ValueError as error:
        param = first_place(passed_on, _is_infinite, within) or within
        told = f"'{param}' is no number that JSON has: neither NaN nor infinite, and at most about 1.8e308"
        raise InvalidArgument(told, code="bad_parameter", param=param) from error


def _is_infinite(number: Any) -> bool:
    return isinstance(number, float) and not math.isfinite(number)
