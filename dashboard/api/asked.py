"""Query parameters of reads that are no lists: each with its type and bounds, all faults said at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request

from dashboard.fold import MINUTE_S
from dashboard.ranges import floor
from gateway.api.lists import LARGEST, TEXT_SCHEMA, Kind, check_parameters, parse
from gateway.api.problems import BadQuery, Fault

LONGEST = timedelta(days=366)


@dataclass(frozen=True, slots=True)
class Parameter:
    """`low` and `high` bound integers."""

    name: str
    kind: Kind
    description: str
    choices: Sequence[str] = ()
    low: int = 1
    high: int = LARGEST
    step: int = 1

    def value(self, text: str) -> Any:
        """Raises ValueError with a sentence."""
        value = parse(text, self.kind)
        if self.choices and value not in self.choices:
            raise ValueError(f"One of {', '.join(self.choices)}.")
        if self.kind == "integer" and not self.low <= value <= self.high:
            raise ValueError(f"From {self.low} to {self.high}." if self.high < LARGEST else f"{self.low} or more.")
        if self.kind == "integer" and value % self.step:
            raise ValueError(f"A multiple of {self.step}.")
        return value

    def schema(self) -> OpenApiParameter:
        shape: dict[str, Any] = {"type": "string"} if self.choices or self.kind == "time" else dict(TEXT_SCHEMA)
        if self.kind == "integer":
            shape = {"type": "integer", "minimum": self.low, "maximum": self.high}
            if self.step > 1:
                shape["multipleOf"] = self.step
        elif self.kind == "time":
            shape["format"] = "date-time"
        elif self.choices:
            shape["enum"] = list(self.choices)
        return OpenApiParameter(self.name, shape, description=self.description)


SINCE = Parameter("since", "time", "Begin of the range, widened to a whole minute.")
UNTIL = Parameter("until", "time", "End of the range. Default: now.")


def read(request: Request, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Parameter → value, None where it is not given. Raises BadQuery."""
    check_parameters(request, [parameter.name for parameter in parameters])
    values: dict[str, Any] = {}
    faults = []
    for parameter in parameters:
        text = request.query_params.get(parameter.name)
        try:
            values[parameter.name] = None if text is None else parameter.value(text)
        except ValueError as error:
            faults.append(Fault(str(error), parameter=parameter.name))
    if faults:
        raise BadQuery(errors=faults)
    return values


def span(values: Mapping[str, Any], default: timedelta) -> tuple[datetime, datetime]:
    """`since` and `until` as a range of a year at most. Raises BadQuery."""
    until: datetime = values["until"] or timezone.now()
    try:
        since = floor(values["since"] or until - default, MINUTE_S)
    except (OverflowError, ValueError):
        raise BadQuery(errors=[Fault("This time is out of range.", parameter="since")]) from None
    if not since < until:
        raise BadQuery(errors=[Fault("It lies after the end of the range.", parameter="since")])
    if until - since > LONGEST:
        raise BadQuery(errors=[Fault("A range is at most 366 days long.", parameter="since")])
    return since, until
