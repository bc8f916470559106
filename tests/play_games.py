"""Games of the tiny model, for the tests of play."""

from diamond_gym.play.game import Game
from diamond_gym.play.settings import Begin
from diamond_gym.play.worlds import Worlds


def begin(worlds: Worlds, **how: object) -> Game:
    return Game(worlds.take(worlds.entry("Breakout")), Begin(**{"seed": 4, **how}))


def frames(game: Game, steps: int) -> list[bytes]:
    return [game.advance().obs.tobytes() for _ in range(steps)]
