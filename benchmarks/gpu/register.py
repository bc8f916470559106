"""Registers what `benchmarks.gpu.run worlds` has left: `python -m benchmarks.gpu.register FOLDER [GAME ...]`.

The models come into the user's registry as GAME-nano (or with --suffix), to be measured, trained further and played.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from benchmarks.gpu.play import tasks_of
from diamond_gym.registry import Card, Entry, game, now, save_model
from diamond_gym.starts import load_starts


def register(folder: Path, name: str, suffix: str = "nano", agent: bool = True) -> Entry:
    """Registers one game's model.

    Args:
        folder: With NAME.json, NAME.safetensors and NAME.starts.npz.
        name: The game's.
        suffix: Of the model's name.
        agent: Whether with the agent that was trained in its dreams.
    """
    facts: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    about, last, recipe, args = facts["about"], facts["curve"][-1], facts["recipe"], facts["args"]
    weights = load_file(folder / f"{name}.safetensors")
    agent = agent and last["windows"] > 0
    if not agent:
        weights = {key: value for key, value in weights.items() if not key.startswith("actor_critic.")}
    began = f", beginning with the bundled {name.lower()}-nano" if name in args["init"] else ""
    policies = sorted({task.policy for task in tasks_of(name, 0, 0, 1)})
    played = f" (first {', '.join(policies)} play, then the agent's)" if agent else f" of {', '.join(policies)} play"
    info = game(name)
    fitted = f"{last['updates']:,} updates of {recipe['batch']} rows on {last['real_steps']:,} steps{played}{began}"
    card = Card(
        name=f"{name.lower()}-{suffix}",
        game=name,
        created=now(),
        summary=f"A small DIAMOND world model of {name}, fitted to {last['real_steps']:,} steps of real play on a GPU.",
        source="benchmarks/gpu.sh worlds",
        spaces={
            "obs_shape": [64, 64, 3],
            "num_actions": info.num_actions,
            "action_meanings": list(info.action_meanings),
        },
        denoiser=facts["denoiser"],
        reward_end=facts["reward_end"],
        actor_critic=facts["agent"] if agent else None,
        sampler={"num_denoising_steps": 1},
        training={
            "preset": "nano",
            "steps": last["updates"],
            "precision": "bfloat16",
            "seed": args["seed"],
            "machine": f"{about['gpu']}, {about['cpus']} CPU cores",
            "versions": {"torch": about["torch"], "python": about["python"]},
            "history": [
                f"{fitted}: benchmarks/gpu.sh worlds ({len(args['games'])} games at once, {facts['seconds']} s)"
            ],
            "data": {
                "steps": last["real_steps"],
                "source": "the Arcade Learning Environment, as the paper preprocesses it",
            },
        },
    )
    return save_model(card, weights, load_starts(folder / f"{name}.starts.npz"))


def main() -> None:
    """Registers all that there is, or the games that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("games", nargs="*")
    parser.add_argument("--suffix", default="nano")
    parser.add_argument("--without-agent", action="store_true")
    args = parser.parse_args()
    there = sorted(path.stem for path in args.folder.glob("*.safetensors"))
    if not there or not set(args.games) <= set(there):
        parser.error(f"{args.folder} holds the models of {', '.join(there) or 'no game'}")
    for name in args.games or there:
        print(register(args.folder, name, args.suffix, not args.without_agent).path)


if __name__ == "__main__":
    main()
