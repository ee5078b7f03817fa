"""Dollars of a run: counted from the services, kept over its starts."""

from pathlib import Path

import pytest
from ray.exceptions import RayTaskError

from cluster.track.spending import Spending, read_spending
from core.errors import InfraError


class Service:
    def __init__(self) -> None:
        self.usd = 0.0
        self.fault: Exception | None = None

    async def spent_usd(self) -> float:
        if self.fault is not None:
            raise self.fault
        return self.usd


async def test_a_second_start_goes_on_from_what_the_first_one_spent(tmp_path: Path) -> None:
    tools, judge = Service(), Service()
    first = Spending(tmp_path, {"tools": tools.spent_usd, "judge": judge.spent_usd})
    tools.usd, judge.usd = 1.0, 0.25
    await first.count()
    tools.usd = 1.5
    assert await first.count() == {"tools": 1.5, "judge": 0.25}

    tools.usd = judge.usd = 0.0  # new services of a new start
    second = Spending(tmp_path, {"tools": tools.spent_usd, "judge": judge.spent_usd})
    assert second.total_usd == 1.75, "known before the first count"
    judge.usd = 0.5
    assert await second.count() == {"tools": 1.5, "judge": 0.75}
    assert read_spending(tmp_path) == {"tools": 1.5, "judge": 0.75}


@pytest.mark.parametrize("fault", [InfraError("away"), RayTaskError("counters", "", OSError())])
async def test_a_service_that_does_not_answer_counts_as_it_did_last(
    tmp_path: Path, fault: Exception
) -> None:
    service = Service()
    spending = Spending(tmp_path, {})
    spending.add_source("canary", service.spent_usd)
    service.usd = 2.0
    await spending.count()
    service.fault = fault
    assert await spending.count() == {"canary": 2.0}


def test_a_folder_where_nothing_was_counted_has_no_dollars(tmp_path: Path) -> None:
    assert read_spending(tmp_path) == {}
