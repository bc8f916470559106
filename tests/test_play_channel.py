"""The sending side of a connection, by itself."""

import asyncio

import pytest

pytest.importorskip("starlette", reason="the extra play is not installed")

from diamond_gym.play.channel import Channel


@pytest.mark.parametrize("ticks", range(4))
def test_what_waits_for_a_frame_to_be_seen_can_be_cancelled_at_any_moment(ticks: int) -> None:
    """Or what sends frames would go on after its game has ended, and the game's end would wait for it."""

    async def run() -> bool:
        channel = Channel()
        channel._unseen.extend((1, 2))

        async def show() -> None:
            await channel.wait_until_seen()
            await asyncio.Event().wait()

        showing = asyncio.create_task(show())
        for _ in range(3):
            await asyncio.sleep(0)
        channel.seen(1)
        for _ in range(ticks):
            await asyncio.sleep(0)
        showing.cancel()
        await asyncio.wait([showing], timeout=1)
        return showing.cancelled()

    assert asyncio.run(run())


def test_a_frame_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diamond_gym.play.channel._PATIENCE", 0.01)
    channel = Channel()
    channel._unseen.extend((1, 2))
    asyncio.run(asyncio.wait_for(channel.wait_until_seen(), 5))
