"""What only the transport's own pieces show; the rest is in tests/integration/test_upstreams.py."""

import asyncio

import pytest

from proxy.transport import Deadline


async def test_a_wait_over_the_limit_is_cancelled_once_and_known_as_ours():
    deadline = Deadline(0.01)
    deadline.start()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.Event().wait()
    assert deadline.has_expired()
    assert not deadline.has_expired()
    assert asyncio.current_task().cancelling() == 0


async def test_time_between_waits_does_not_count():
    """A caller who reads slowly is not the upstream's fault."""
    deadline = Deadline(0.01)
    deadline.start()
    deadline.stop()
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(0.03, over.set)
    await over.wait()
    deadline.start()
    deadline.stop()
    deadline.close()
    assert not deadline.has_expired()


async def test_each_wait_has_the_whole_limit():
    deadline = Deadline(0.05)
    loop = asyncio.get_running_loop()
    for _ in range(4):
        deadline.start()
        step = loop.create_future()
        loop.call_later(0.02, step.set_result, None)
        await step
        deadline.stop()
    deadline.close()
    assert not deadline.has_expired()


async def test_a_cancellation_from_elsewhere_is_not_ours():
    deadline = Deadline(60)

    async def waits():
        deadline.start()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert not deadline.has_expired()
            raise
        finally:
            deadline.close()

    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
