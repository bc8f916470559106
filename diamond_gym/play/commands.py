"""A client's messages, carried out on its game."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from diamond_gym.errors import BadArgument
from diamond_gym.play.branches import DICE, STEPS
from diamond_gym.play.game import Game
from diamond_gym.play.player import Busy, Player
from diamond_gym.play.protocol import Kind, Message
from diamond_gym.play.view import branches_message

Command = Callable[[Player, Game, Message], Awaitable[Any]]

# Messages after which the branches that are shown would be those of another moment.
_ELSEWHERE = ("step", "reset", "new_start", "seek", "resume_from", "branch", "real", "quality", "cancel_branch")


async def obey(player: Player, message: Message) -> None:
    """Does what a message asks for; what cannot be done is answered by an error."""
    name, game = message["type"], player.game
    try:
        if name == "start":
            await _start(player, message)
        elif name == "close":
            await player.close()
        elif name == "ack":
            player.channel.seen(message["sequence"])
        elif name == "visible":
            player.hidden = not message["on"]
            player.changed()
        elif game is None:
            await player.channel.send({"type": "error", "code": "not_started", "text": "start comes first"})
        else:
            if name in _ELSEWHERE:
                await _leave_branches(player)
                game.branches = None
            await _COMMANDS[name](player, game, message)
    except Exception as error:
        await player.failed(error)


async def _start(player: Player, message: Message) -> None:
    try:
        game, fps, started = await player.house.open_game(player, message)
    except Busy as busy:
        await player.channel.send({"type": "busy", "limit": busy.limit})
        return
    await player.begin(game, fps, started)


async def _leave_branches(player: Player) -> None:
    task, player.branching = player.branching, None
    if task is not None:
        task.cancel()
        await asyncio.wait([task])


async def _keys(player: Player, game: Game, message: Message) -> None:
    game.controls.hold(message["down"])


async def _action(player: Player, game: Game, message: Message) -> None:
    game.controls.give(message["action"])


async def _mouse(player: Player, game: Game, message: Message) -> None:
    game.controls.move(message["dx"], message["dy"], message["buttons"])


async def _pause(player: Player, game: Game, message: Message) -> None:
    player.paused = message["on"]
    player.changed()
    if game.seek is not None and not player.paused:
        await player.change(game, game.look_back, None)


async def _step(player: Player, game: Game, message: Message) -> None:
    player.paused = True
    await player.change(game, game.advance)


async def _reset(player: Player, game: Game, message: Message) -> None:
    await player.change(game, game.reset, message.get("seed"))


async def _new_start(player: Player, game: Game, message: Message) -> None:
    await player.change(game, game.new_start)


async def _speed(player: Player, game: Game, message: Message) -> None:
    player.fps = message["fps"]
    player.changed()


async def _quality(player: Player, game: Game, message: Message) -> None:
    await player.change(game, game.set_quality, message["name"])


async def _control(player: Player, game: Game, message: Message) -> None:
    game.take_over(message["by"])
    player.changed()


async def _seek(player: Player, game: Game, message: Message) -> None:
    player.paused = True
    await player.change(game, game.look_back, message["step"])


async def _resume_from(player: Player, game: Game, message: Message) -> None:
    await player.change(game, game.rewind, message["step"])
    player.paused = False
    player.changed()


async def _thumbnails(player: Player, game: Game, message: Message) -> None:
    for step, pixels in await player.do(game.session.thumbnails, message["count"]):
        await player.channel.send({}, [(Kind.THUMBNAIL, 0, pixels)], step)


async def _branch(player: Player, game: Game, message: Message) -> None:
    player.paused = True
    if game.seek is not None:
        await player.change(game, game.rewind, game.seek)
    player.branching = player.spawn(_show_branches(player, game, message))
    player.changed()


async def _show_branches(player: Player, game: Game, message: Message) -> None:
    """Dreams the branches and sends their frames as they come, in turn with what other players want."""
    count, steps = message.get("count", DICE), message.get("steps", STEPS)
    try:
        branches = await player.do(game.branch, message["kind"], steps, count)
    except Exception:
        player.branching = None
        player.changed()
        raise
    await player.channel.send(branches_message(branches))
    shown = 0
    while not branches.done:
        index = await player.do(branches.advance)
        branch = branches.branches[index]
        await player.channel.send({}, [(Kind.BRANCH, index, branch.obs)], branch.steps)
        if branches.shown > shown or branch.ended:
            shown = branches.shown
            await player.channel.send(branches_message(branches))


async def _choose(player: Player, game: Game, message: Message) -> None:
    await _leave_branches(player)
    await player.change(game, game.choose, message["index"])


async def _cancel_branch(player: Player, game: Game, message: Message) -> None:
    player.changed()


async def _real(player: Player, game: Game, message: Message) -> None:
    await player.change(game, game.set_real, message["on"])


async def _denoise(player: Player, game: Game, message: Message) -> None:
    game.denoise = message["on"]
    await player.change(game, lambda: None)


async def _record(player: Player, game: Game, message: Message) -> None:
    recorded = await player.change(game, game.record, message["on"])
    if recorded is not None:
        await player.channel.send({"type": "recorded", **recorded})


async def _export(player: Player, game: Game, message: Message) -> None:
    async def written() -> None:
        kind = message["format"]
        exported = await player.house.export(game, kind, player.fps)
        await player.channel.send({"type": "exported", "format": kind, **exported})

    if player.exporting is not None and not player.exporting.done():
        raise BadArgument("one file at a time: the last one is still being written")
    player.exporting = player.spawn(written())


_COMMANDS: dict[str, Command] = {
    "keys": _keys,
    "action": _action,
    "mouse": _mouse,
    "pause": _pause,
    "step": _step,
    "reset": _reset,
    "new_start": _new_start,
    "speed": _speed,
    "quality": _quality,
    "control": _control,
    "seek": _seek,
    "resume_from": _resume_from,
    "thumbnails": _thumbnails,
    "branch": _branch,
    "choose": _choose,
    "cancel_branch": _cancel_branch,
    "real": _real,
    "denoise": _denoise,
    "record": _record,
    "export": _export,
}
