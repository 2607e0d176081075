"""What the parent answers while instances end; tests of real instances are in test_instances.py."""

import asyncio
from typing import Any, cast

from app.errors import NotReady
from app.instances.control_channel import ChannelClosed
from app.instances.instance_process import InstanceProcess
from app.instances.parent_requests import ParentRequests, Roster
from app.instances.report_sums import Report, growing, metric_family, sum_reports


class EndsWhenAsked:
    """In the place of an instance: it ends while it is asked, as one does that is killed then.

    With a real process that moment cannot be met on purpose.
    """

    number = 0

    def __init__(self, roster: Roster, counted: int) -> None:
        self._roster = roster
        family = metric_family("crossvit_requests", "counter", "Requests", [({"status": "200"}, counted)])
        self.counters: Report = {"metrics": family, "totals": {}}

    async def ask_soon(self, method: str, *_: object) -> Any:
        if self._roster.processes and method == "check_ready":
            await asyncio.sleep(0)
            self._roster.processes.clear()
            self._roster.ended = sum_reports([self._roster.ended, growing(self.counters)], self._roster.count)
        raise ChannelClosed


def test_an_instance_that_ends_while_all_are_asked_is_counted_once() -> None:
    async def main() -> None:
        roster = Roster(count=1)
        instance = cast(InstanceProcess, EndsWhenAsked(roster, 815))
        roster.processes.append(instance)
        roster.current[0] = instance
        requests = ParentRequests(roster, None)
        for _ in range(2):  # while it ends, and afterwards
            report = await requests.report()
            assert sum_reports([report], 1)["metrics"] == report["metrics"]
            assert "815" in str(report["metrics"]["crossvit_requests"])
        assert isinstance((await requests._faults())[0], NotReady)

    asyncio.run(main())
