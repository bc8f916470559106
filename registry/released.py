"""The authors' released format, a checkpoint and two YAML files, as a card and its weights.

Alonso et al. 2024 (arXiv 2405.12399) release a flat state dict per model with the prefixes `denoiser.`,
`rew_end_model.`, `actor_critic.` and, in models of two stages, `upsampler.`. Its configuration says most sizes;
the number of actions and a few switches follow from the tensors' shapes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diamond_gym.errors import BadArgument, BadConfig, DamagedModel
from diamond_gym.files import sha256_file
from diamond_gym.registry.card import Card, Table, check_name, now
from diamond_gym.registry.checkpoint import check_weights, read_checkpoint, read_yaml, resolve_references
from diamond_gym.registry.games import games
from diamond_gym.schema import LARGEST_IMAGE, NETWORKS, check_table

if TYPE_CHECKING:
    from torch import Tensor

_INNER = {
    "img_channels": int,
    "num_steps_conditioning": int,
    "cond_channels": int,
    "depths": list,
    "channels": list,
    "attn_depths": list,
}
_DENOISER = {"sigma_data": float, "sigma_offset_noise": float, "inner_model": dict}
_REWARD_END = {
    "lstm_dim": int,
    "img_channels": int,
    "img_size": int,
    "cond_channels": int,
    "depths": list,
    "channels": list,
    "attn_depths": list,
}
_ACTOR_CRITIC = {"lstm_dim": int, "img_channels": int, "img_size": int, "channels": list, "down": list}
_PARTS = ("denoiser", "upsampler", "rew_end_model", "actor_critic")
# Where a network's state dict tells the number of actions: the rows of
_ACTION_ROWS = {
    "denoiser": "denoiser.inner_model.act_emb.0.weight",
    "rew_end_model": "rew_end_model.act_emb.weight",
    "actor_critic": "actor_critic.actor_linear.weight",
}
_AGENTS, _EPOCH = Path("checkpoints", "agent_versions"), re.compile(r"(\d+)\.pt$")
_ID = re.compile(r"(?:[\w.-]+[:/])*([\w.-]+?)(?:NoFrameskip)?-v\d+")
TWO_STAGE_SAMPLER = {"num_denoising_steps": 1, "s_cond": 0.005}
"""How dynamics that are told the noise of their past frames are sampled when it has to be fast (the authors')."""


@dataclass(frozen=True)
class Released:
    """A released model, read and checked, not registered yet.

    Attributes:
        card: Its card, without files.
        weights: Its tensors by prefixed key.
        num_steps_conditioning: Frames that a dream begins from, T.
        frame_shape: Of the frames that the denoiser sees: (height, width, channels).
    """

    card: Card
    weights: "dict[str, Tensor]"
    num_steps_conditioning: int
    frame_shape: tuple[int, int, int]


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
    game = game or _game_of(env, config)
    weights = read_checkpoint(checkpoint)
    where = str(config)
    for key in agent:
        if key not in (*_PARTS, "_target_"):
            raise DamagedModel(f"{where}: unknown key '{key}'")
    num_actions = _count_actions(weights, checkpoint)
    denoiser = _denoiser(agent.get("denoiser"), f"{where}: denoiser", "denoiser.", weights)
    upsampler = agent.get("upsampler") and _denoiser(agent["upsampler"], f"{where}: upsampler", "upsampler.", weights)
    reward_end = agent.get("rew_end_model") and _table(agent["rew_end_model"], f"{where}: rew_end_model", _REWARD_END)
    actor_critic = agent.get("actor_critic") and _table(agent["actor_critic"], f"{where}: actor_critic", _ACTOR_CRITIC)
    for table in (denoiser["inner_model"], reward_end, actor_critic):
        if table:
            table["num_actions"] = num_actions

    try:
        metadata = {
            "denoiser": denoiser,
            "upsampler": upsampler,
            "reward_end": reward_end,
            "actor_critic": actor_critic,
        }
        check_table({part: table for part, table in metadata.items() if table}, NETWORKS)
    except BadConfig as error:
        raise DamagedModel(f"{where}: {error}") from None
    size = _image_size(env, reward_end or actor_critic, config)
    channels = denoiser["inner_model"]["img_channels"]
    for part, square in (("rew_end_model", reward_end), ("actor_critic", actor_critic)):
        if square and (square["img_size"], square["img_size"]) != size:
            raise DamagedModel(
                f"{where}: {part} is made for {square['img_size']} pixels a side, the images have {size}"
            )
    spaces: Table = {"obs_shape": [*size, channels], "num_actions": num_actions}
    frame_shape = (*size, channels)
    if upsampler:
        factor = upsampler["upsampling_factor"]
        if size[0] % factor or size[1] % factor:
            raise DamagedModel(f"{where}: images of {size} are no multiple of the upsampling factor {factor}")
        frame_shape = (size[0] // factor, size[1] // factor, channels)
        spaces["low_res_shape"] = list(frame_shape)
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
        denoiser=denoiser,
        reward_end=reward_end or None,
        actor_critic=actor_critic or None,
        upsampler=upsampler or None,
        sampler=TWO_STAGE_SAMPLER if denoiser["inner_model"]["noise_cond"] else {},
        training={"imported": {"checkpoint": checkpoint.name, "sha256": sha256_file(checkpoint)}},
    )
    check_weights(card, weights, str(checkpoint))
    return Released(card, weights, denoiser["inner_model"]["num_steps_conditioning"], frame_shape)


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


def _game_of(env: Table, config: Path) -> str:
    train = env.get("train")
    id = train.get("id") if isinstance(train, dict) else None
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


def _denoiser(table: Any, where: str, prefix: str, weights: "Mapping[str, Tensor]") -> Table:
    """A denoiser's table as the card has it; what is not in the YAML, the tensors' names tell."""
    optional = {"noise_previous_obs": bool, "upsampling_factor": int}
    read = _table(table, where, _DENOISER, optional)
    inner = _table(read["inner_model"], f"{where}.inner_model", _INNER, {"num_actions": int, "is_upsampler": bool})
    inner.pop("num_actions", None)
    inner.pop("is_upsampler", None)
    inner["noise_cond"] = f"{prefix}inner_model.noise_cond_emb.weight" in weights
    if read.get("upsampling_factor") is not None:
        inner["num_extra_images"] = 1
    elif prefix == "upsampler.":
        raise DamagedModel(f"{where}: key 'upsampling_factor' is missing")
    return {**read, "inner_model": inner}


def _table(value: Any, where: str, wanted: Mapping[str, type], optional: Mapping[str, type] | None = None) -> Table:
    """A table of exactly these keys, each of its type; null is the same as left out."""
    optional = optional or {}
    if not isinstance(value, dict):
        raise DamagedModel(f"{where}: a table is wanted")
    left = {key: item for key, item in value.items() if key != "_target_" and item is not None}
    table: Table = {}
    for key, kind in {**wanted, **optional}.items():
        if key in left:
            table[key] = _value(left.pop(key), kind, f"{where}.{key}")
        elif key not in optional:
            raise DamagedModel(f"{where}: key '{key}' is missing")
    if left:
        raise DamagedModel(f"{where}: unknown key '{next(iter(left))}'")
    return table


def _value(value: Any, kind: type, where: str) -> Any:
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML takes 1e-3 for a word
        except ValueError:
            pass
    counts = value if isinstance(value, list) else [value]
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in counts)
    if type(value) is kind and (kind is dict or kind is bool or (whole and min(counts, default=-1) >= 0)):
        return value
    what = {int: "a whole number", float: "a number", bool: "true or false", list: "a list of whole numbers"}
    raise DamagedModel(f"{where}: {what.get(kind, 'a table')} is wanted, not {str(value)[:60]!r}")


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


def _image_size(env: Table, square: Table | None, config: Path) -> tuple[int, int]:
    train = env.get("train")
    size = train.get("size") if isinstance(train, dict) else None
    if size is None and square:
        size = square["img_size"]
    sides = [size, size] if isinstance(size, int) else size
    if size is None:
        raise BadArgument(f"{config} does not say the size of images: give the environment's YAML with --env-config")
    if (
        not isinstance(sides, list)
        or len(sides) != 2
        or not all(type(n) is int and 0 < n <= LARGEST_IMAGE for n in sides)
    ):
        raise DamagedModel(
            f"{config}: env.train.size is one or two whole numbers up to {LARGEST_IMAGE}, not {str(size)[:60]!r}"
        )
    return sides[0], sides[1]
