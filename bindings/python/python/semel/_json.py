"""Values and payloads as JSON texts."""

from __future__ import annotations

import json
from typing import Any

from .errors import InvalidArgument


def dumped(what: str, value: Any) -> str:
    """The JSON text of a value that the caller gave.

    Raises:
        InvalidArgument: it is not JSON; the message says where.
    """
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"the {what} is not JSON ({error}); use dict, list, str, int, float, bool and None, "
            "or convert it first"
        ) from error
