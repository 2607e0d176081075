import asyncio

import pytest

from app.server.refusal_log import RefusalLog


def test_refusals_are_counted_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        counted = RefusalLog(seconds=0.05)
        for _ in range(3):
            counted.count("QueueFull")
        counted.count("NotReady")
        await asyncio.sleep(0.15)
        counted.count("QueueFull")
        counted.write()
        await asyncio.sleep(0.1)

    asyncio.run(main())
    assert caplog.messages == [
        "4 requests were refused in 0.05 s: QueueFull 3, NotReady 1",
        "1 requests were refused in 0.05 s: QueueFull 1",
    ]
