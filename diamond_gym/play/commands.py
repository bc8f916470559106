"""A client's messages, carried out on its game."""

import asyncio

from diamond_gym.errors import BadArgument
from diamond_gym.play.branches import DICE, STEPS
from diamond_gym.play.game import Game
from diamond_gym.play.player import Busy, Player
from diamond_gym.play.protocol import Kind, Message
from diamond_gym.play.view import branches_message

# Messages after which the branches that are shown would be those of another moment.
_ELSEWHERE = ("step", "reset", "new_start", "seek", "resume_from", "branch", "real", "quality", "cancel_branch")


async def obey(player: Player, message: Message) -> None:
    """Does what a message asks for; what cannot be done is answered by an error."""
    try:
        match message["type"]:
            case "start":
                await _start(player, message)
            case "close":
                await player.close()
            case "ack":
                player.channel.seen(message["sequence"])
            case "visible":
                player.hidden = not message["on"]
                player.changed()
            case _ if player.game is None:
                await player.channel.send({"type": "error", "code": "not_started", "text": "start comes first"})
            case _:
                await _obey_in_game(player, player.game, message)
    except Exception as error:
        await player.failed(error)


async def _start(player: Player, message: Message) -> None:
    try:
        game, fps, started = await player.server.open_game(player, message)
    except Busy as busy:
        await player.channel.send({"type": "busy", "limit": busy.limit})
        return
    await player.begin(game, fps, started)


async def _obey_in_game(player: Player, game: Game, message: Message) -> None:
    if message["type"] in _ELSEWHERE:
        await _leave_branches(player)
        game.branches = None
    match message["type"]:
        case "keys":
            game.controls.hold(message["down"])
        case "action":
            game.controls.give(message["action"])
        case "mouse":
            game.controls.move(message["dx"], message["dy"], message["buttons"])
        case "pause":
            player.paused = message["on"]
            player.changed()
            if game.seek is not None and not player.paused:
                await player.change(game, game.look_back, None)
        case "step":
            player.paused = True
            await player.change(game, game.advance)
        case "reset":
            await player.change(game, game.reset, message.get("seed"))
        case "new_start":
            await player.change(game, game.new_start)
        case "speed":
            player.fps = message["fps"]
            player.changed()
        case "quality":
            await player.change(game, game.set_quality, message["name"])
        case "control":
            game.take_over(message["by"])
            player.changed()
        case "seek":
            player.paused = True
            await player.change(game, game.look_back, message["step"])
        case "resume_from":
            await player.change(game, game.rewind, message["step"])
            player.paused = False
            player.changed()
        case "thumbnails":
            for step, pixels in await player.do(game.session.thumbnails, message["count"]):
                await player.channel.send({}, [(Kind.THUMBNAIL, 0, pixels)], step)
        case "branch":
            player.paused = True
            if game.seek is not None:
                await player.change(game, game.rewind, game.seek)
            player.branching = player.spawn(_show_branches(player, game, message))
            player.changed()
        case "choose":
            await _leave_branches(player)
            await player.change(game, game.choose, message["index"])
        case "cancel_branch":
            player.changed()
        case "real":
            await player.change(game, game.set_real, message["on"])
        case "denoise":
            game.denoise = message["on"]
            await player.change(game, lambda: None)
        case "record":
            recorded = await player.change(game, game.record, message["on"])
            if recorded is not None:
                await player.channel.send({"type": "recorded", **recorded})
        case "export":
            if player.exporting is not None and not player.exporting.done():
                raise BadArgument("one file at a time: the last one is still being written")
            player.exporting = player.spawn(_export(player, game, message["format"]))


async def _leave_branches(player: Player) -> None:
    task, player.branching = player.branching, None
    if task is not None:
        task.cancel()
        await asyncio.wait([task])


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


async def _export(player: Player, game: Game, kind: str) -> None:
    exported = await player.server.export(game, kind, player.fps)
    await player.channel.send({"type": "exported", "format": kind, **exported})
