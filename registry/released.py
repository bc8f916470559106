"""The authors' released format, a checkpoint and two YAML files, as a card and its weights.

Alonso et al. 2024 (arXiv 2405.12399) release a flat state dict per model with the prefixes `denoiser.`,
`rew_end_model.`, `actor_critic.` and, in models of two stages, `upsampler.`. Its configuration says most sizes;
the number of actions and a few switches follow from the tensors' shapes.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diamond_gym.errors import BadArgument, BadConfig, DamagedModel
from diamond_gym.files import sha256_file
from diamond_gym.registry.card import Card, now
from diamond_gym.registry.card_fields import Table, check_name
from diamond_gym.registry.checkpoint import read_checkpoint, read_yaml, resolve_references
from diamond_gym.registry.games import games
from diamond_gym.registry.loading import check_weights
from diamond_gym.registry.published import CSGO
from diamond_gym.schema import LARGEST_IMAGE, NETWORKS, Number, check_table

if TYPE_CHECKING:
    from torch import Tensor

# The released names of the networks, and the card's.
_PARTS = {
    "denoiser": "denoiser",
    "upsampler": "upsampler",
    "rew_end_model": "reward_end",
    "actor_critic": "actor_critic",
}
# The keys of each network's table: those that it must have, and those that it may have.
_UNUSED = {"num_actions", "is_upsampler"}
_INNER = {"img_channels", "num_steps_conditioning", "cond_channels", "depths", "channels", "attn_depths"}
_KEYS = {
    "denoiser": ({"sigma_data", "sigma_offset_noise", "inner_model"}, {"noise_previous_obs", "upsampling_factor"}),
    "inner_model": (_INNER, _UNUSED),
    "rew_end_model": ({*_INNER, "lstm_dim", "img_size"} - {"num_steps_conditioning"}, set[str]()),
    "actor_critic": ({"lstm_dim", "img_channels", "img_size", "channels", "down"}, set[str]()),
}
# Where a network's state dict gives the number of actions: the rows of
_ACTION_ROWS = {
    "denoiser": "denoiser.inner_model.act_emb.0.weight",
    "rew_end_model": "rew_end_model.act_emb.weight",
    "actor_critic": "actor_critic.actor_linear.weight",
}
_AGENTS, _EPOCH = Path("checkpoints", "agent_versions"), re.compile(r"(\d+)\.pt$")
_ID = re.compile(r"(?:[\w.-]+[:/])*([\w.-]+?)(?:NoFrameskip)?-v\d+")
TWO_STAGE_SAMPLER = {"num_denoising_steps": 1, "s_cond": 0.005}
"""How dynamics that get the noise level of their past frames are sampled when it has to be fast (the authors')."""


@dataclass(frozen=True)
class Released:
    """A released model, read and checked, not registered yet.

    Attributes:
        card: Its card, without files.
        weights: Its tensors by prefixed key.
    """

    card: Card
    weights: "dict[str, Tensor]"


def read_released(
    checkpoint: Path,
    config: Path,
    env_config: Path | None,
    game: str | None = None,
    name: str | None = None,
) -> Released:
    """Reads a checkpoint in the released format with its configuration.

    Args:
        checkpoint: The `.pt` file.
        config: The agent's YAML; or one file with both tables, `agent` and `env`, as a run's `config/trainer.yaml`.
        env_config: The environment's YAML; None if the agent's needs none.
        game: The game it dreams; None for that of the environment's id.
        name: The name for the registry; default `<game>-diamond`.

    Raises:
        DamagedModel: A file is damaged or refused, or the two do not fit each other key by key.
        BadArgument: The environment's configuration is needed and not given.
    """
    agent, env = _read_configs(config, env_config)
    train = env["train"] if isinstance(env.get("train"), dict) else {}
    game = game or _game_of(train.get("id"), config)
    weights = read_checkpoint(checkpoint)
    num_actions = _count_actions(weights, checkpoint)
    try:
        tables = _networks(agent, weights, num_actions)
        size = _image_size(train.get("size"), tables)
    except BadConfig as error:
        raise DamagedModel(f"{config}: {error}") from None
    if size is None:
        raise BadArgument(f"{config} does not say the image size: give the environment's YAML with --env-config")
    inner, upsampler = tables["denoiser"]["inner_model"], tables.get("upsampler")
    channels = inner["img_channels"]
    spaces: Table = {"obs_shape": [*size, channels], "num_actions": num_actions}
    if upsampler:
        spaces["low_res_shape"] = [*(side // upsampler["upsampling_factor"] for side in size), channels]
        spaces["actions"] = {"kind": "csgo"} if game == CSGO else {"kind": "multi_binary", "shape": [num_actions]}
    known = games().get(game)
    if known and known.num_actions == num_actions:
        spaces["action_meanings"] = list(known.action_meanings)
    card = Card(
        name=name or f"{game.lower()}-diamond",
        game=game,
        created=now(),
        license="unknown",
        summary=f"A DIAMOND world model of {game}, imported from a checkpoint in the released format.",
        source=f"diamond-gym import-diamond {checkpoint.name}",
        spaces=spaces,
        **tables,
        sampler=TWO_STAGE_SAMPLER if inner["noise_cond"] else {},
        training={"imported": {"checkpoint": checkpoint.name, "sha256": sha256_file(checkpoint)}},
    )
    check_weights(card, weights, str(checkpoint))
    return Released(card, weights)


def find_run(source: Path) -> tuple[Path, Path | None]:
    """The checkpoint and the configuration that a run of the authors' code has left.

    Args:
        source: The run's folder, for the last of its agents; or a checkpoint, in such a folder or elsewhere.

    Returns:
        The checkpoint, and the run's configuration; None where there is none.

    Raises:
        BadArgument: The folder is not a run's.
    """
    run, checkpoint = source, source
    if source.is_dir():
        agents = {
            int(number[1]): path for path in (source / _AGENTS).glob("*.pt") if (number := _EPOCH.search(path.name))
        }
        if not agents:
            raise BadArgument(
                f"{source} is not the folder of a run: there is no {_AGENTS / 'agent_epoch_00001.pt'} in it"
            )
        checkpoint = agents[max(agents)]
    else:
        run = source.absolute().parents[min(len(_AGENTS.parts), len(source.absolute().parents) - 1)]
    config = run / "config" / "trainer.yaml"
    return checkpoint, config if config.is_file() else None


def _game_of(id: object, config: Path) -> str:
    result = _ID.fullmatch(id) if isinstance(id, str) else None
    if result is None:
        raise BadArgument(f"{config} does not say which game it is: name it with --game")
    return check_name(result[1], f"{config}: game")


def _read_configs(config: Path, env_config: Path | None) -> tuple[Table, Table]:
    table = read_yaml(config)
    root: Table = {key: table[key] for key in ("agent", "env") if key in table}
    if "agent" not in table:
        root = {"agent": table}
    if env_config is not None:
        root["env"] = read_yaml(env_config)
    if "env" not in root and "${env." in config.read_text(encoding="utf-8"):
        raise BadArgument(f"{config} refers to the environment's configuration: give it with --env-config")
    resolved = resolve_references(root, str(config))
    agent, env = resolved["agent"], resolved.get("env", {})
    if not isinstance(agent, dict) or not isinstance(env, dict):
        raise DamagedModel(f"{config}: tables are wanted")
    return agent, env


def _networks(agent: Table, weights: "Mapping[str, Tensor]", num_actions: int) -> dict[str, Any]:
    """The tables of the networks as the card has them; what is not in the YAML, the tensors' names tell.

    Raises:
        BadConfig: A table lacks a key, or has one that cannot be used.
    """
    for key in agent:
        if key not in (*_PARTS, "_target_"):
            raise BadConfig(f"unknown key '{key}'")
    tables: dict[str, Any] = {}
    for part, name in _PARTS.items():
        if part != "denoiser" and not agent.get(part):
            continue
        table = _table(agent.get(part), part, *_KEYS["denoiser" if part == "upsampler" else part])
        if "inner_model" in table:
            inner = _table(table["inner_model"], f"{part}.inner_model", *_KEYS["inner_model"])
            inner["noise_cond"] = f"{part}.inner_model.noise_cond_emb.weight" in weights
            if "upsampling_factor" in table:
                inner["num_extra_images"] = 1
            elif part == "upsampler":
                raise BadConfig("key 'upsampler.upsampling_factor' is missing")
            table["inner_model"] = {key: value for key, value in inner.items() if key not in _UNUSED}
        if part != "upsampler":  # which sees no actions
            table.get("inner_model", table)["num_actions"] = num_actions
        tables[name] = table
    check_table(tables, NETWORKS)
    return tables


def _table(value: Any, where: str, required: set[str], optional: set[str]) -> Table:
    """A table of these keys; null is the same as left out."""
    if not isinstance(value, dict):
        raise BadConfig(f"{where}: a table is wanted")
    table = {key: item for key, item in value.items() if key != "_target_" and item is not None}
    if missing := sorted(required - set(table)):
        raise BadConfig(f"key '{where}.{missing[0]}' is missing")
    for key in table:
        if key not in required | optional:
            raise BadConfig(f"unknown key '{where}.{key}'")
        if isinstance(table[key], str):
            with suppress(ValueError):
                table[key] = float(table[key])  # YAML takes 1e-3 for a word
    return table


def _count_actions(weights: "Mapping[str, Tensor]", checkpoint: Path) -> int:
    counts = {key: len(weights[key]) for key in _ACTION_ROWS.values() if key in weights and weights[key].ndim}
    if _ACTION_ROWS["denoiser"] not in counts:
        raise DamagedModel(
            f"{checkpoint}: key '{_ACTION_ROWS['denoiser']}' is missing, which tells the number of actions"
        )
    if len(set(counts.values())) > 1:
        metadata = ", ".join(f"'{key}' has {count}" for key, count in counts.items())
        raise DamagedModel(f"{checkpoint}: its networks differ in the number of actions: {metadata}")
    return counts[_ACTION_ROWS["denoiser"]]


def _image_size(size: Any, tables: Mapping[str, Table]) -> tuple[int, int] | None:
    """Height and width, of which the networks that see square images are made; None if nothing says them.

    Raises:
        BadConfig: These are none, or do not fit the networks.
    """
    squares = {part: tables[part]["img_size"] for part in ("reward_end", "actor_critic") if part in tables}
    if size is None:
        size = next(iter(squares.values()), None)
    if size is None:
        return None
    sides = [size, size] if isinstance(size, int) else size
    if not isinstance(sides, list) or len(sides) != 2 or not all(map(Number(1, LARGEST_IMAGE).accepts, sides)):
        raise BadConfig(f"env.train.size must be 1 or 2 whole numbers up to {LARGEST_IMAGE}, not {str(size)[:60]!r}")
    for part, side in squares.items():
        if [side, side] != sides:
            raise BadConfig(f"{part} is made for {side} pixels a side, the images have {tuple(sides)}")
    factor = tables["upsampler"]["upsampling_factor"] if "upsampler" in tables else 1
    if sides[0] % factor or sides[1] % factor:
        raise BadConfig(f"images of {tuple(sides)} are not a multiple of the upsampling factor {factor}")
    return sides[0], sides[1]
