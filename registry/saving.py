"""Models written, updated, exported and removed.

A model's files are named by their content, `pong-0123abcd.safetensors`, and the card names them. So a model is
replaced by one rename, that of its card, before which nothing of the old model changes; its files go afterwards.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diamond_gym.errors import BadArgument, DamagedModel, ModelNotFound
from diamond_gym.files import atomic_path, atomic_write, disk_space_for, flush_folder, sha256_file, temporary_folder
from diamond_gym.registry.card import Card, FileRecord
from diamond_gym.registry.card_fields import AGENT, check_name
from diamond_gym.registry.human_card import PREVIEW, human_card, readme
from diamond_gym.registry.loading import check_weights, read_extras, read_model, verify
from diamond_gym.registry.models import Entry, home_folder, local_folder, models_folder, read_entry

if TYPE_CHECKING:
    from torch import Tensor

    from diamond_gym.starts import Starts

_SUFFIXES = {"weights": ".safetensors", "starts": ".starts.npz", PREVIEW: ".png", AGENT: ".agent.zip"}
_HASH = "-[0-9a-f]{8}"
_FILE = re.compile(rf"(.+?)({_HASH})?(?:{'|'.join(map(re.escape, _SUFFIXES.values()))})")


def save_model(
    card: Card,
    weights: "Mapping[str, Tensor]",
    starts: "Starts | None" = None,
    folder: str | os.PathLike[str] | None = None,
    extras: Mapping[str, bytes] | None = None,
) -> Entry:
    """Writes a model: card, human card, weights and start states.

    A model of the same name is replaced in one step: whoever reads, and whatever interrupts, finds the old model or
    the new one, whole. Of two processes that save the same name at once, the last one's stays.

    Args:
        card: What the model is; its `files` are filled in here.
        weights: Tensors by state-dict key, stored in the types they have.
        starts: The real frames that dreams begin from.
        folder: Where to write the files, flat, instead of the user's registry.
        extras: Contents of further files: `"preview"`, a picture of its dreams as PNG, `"agent"`, an agent's .zip.

    Raises:
        DamagedModel: The card's name or a table of it cannot be written.
        DiskFull: There is no room left; the old model is intact.
    """
    from safetensors.torch import save_file

    from diamond_gym.starts import save_starts

    check_name(card.name)
    target = local_folder(card.name) if folder is None else Path(folder)
    with _replacing(target, card.name) as staged:
        # Keys in order and no metadata: the same tensors give the same bytes, hence the same hash.
        tensors = _apart({key: weights[key] for key in sorted(weights)})
        files = {"weights": _write(staged, card.name, "weights", lambda path: save_file(tensors, path))}
        if starts is not None:
            files["starts"] = _write(staged, card.name, "starts", lambda path: save_starts(path, starts))
        files |= _write_extras(staged, card.name, extras or {})
        written = _write_cards(staged, replace(card, files=files))
    return Entry(written, target / f"{card.name}.toml")  # not read: another process may have replaced it by now


def with_agent(
    entry: Entry, config: Mapping[str, Any], weights: "Mapping[str, Tensor]", facts: Mapping[str, Any]
) -> Entry:
    """Registers a copy of a model together with an agent, in place of one that it may have.

    The copy has the model's name and its time of creation, and lies in the user's registry, where it goes before a
    bundled model. The scores of the agent that it replaces leave the card: they are another one's.

    Args:
        entry: The model.
        config: The fields of its `ActorCriticConfig`; image size, channels and number of actions may be left out.
        weights: The agent's tensors by state-dict key, with or without the prefix `actor_critic.`, stored in the
            types they have.
        facts: What the card says of the agent, as its table `training.agent`: how and in which dreams it was trained,
            what it scored.

    Raises:
        BadArgument: The agent sees other frames or has other actions than the model.
        DamagedModel: The model is not whole, or the agent's tensors are not those of its configuration.
        DiskFull: There is no room left; the old model is intact.
    """
    from diamond_gym.world_model import COMPILED, PREFIXES

    card, kept, starts, extras = _for_another_agent(entry, facts)
    height, width, channels = card.obs_shape
    table = {"img_size": height, "img_channels": channels, **config}
    table["num_actions"] = config.get("num_actions") or card.num_actions
    side, seen, actions = (table[key] for key in ("img_size", "img_channels", "num_actions"))
    across = table.get("img_width") or side
    if (side, across, seen, actions) != (height, width, channels, card.num_actions):
        raise BadArgument(
            f"the agent sees frames of {side}x{across}x{seen} and has {actions} actions, "
            f"but {card.name} dreams {height}x{width}x{channels} with {card.num_actions}"
        )
    prefix = PREFIXES["actor_critic"]
    agent = {prefix + key.removeprefix(prefix).replace(COMPILED, ""): value for key, value in weights.items()}
    card, weights = replace(card, actor_critic=table), {**kept, **agent}
    check_weights(card, weights, f"the agent of {entry.name}")
    return save_model(card, weights, starts, extras=extras)


def with_agent_file(entry: Entry, content: bytes, facts: Mapping[str, Any]) -> Entry:
    """Registers a copy of a model as `with_agent` does, together with an agent in a file of its own.

    The file's `content` is as `diamond_gym.trainers.sb3_files.packed` makes it.
    """
    card, weights, starts, extras = _for_another_agent(entry, facts)
    return save_model(card, weights, starts, extras={**extras, AGENT: content})


def _for_another_agent(
    entry: Entry, facts: Mapping[str, Any]
) -> "tuple[Card, dict[str, Tensor], Starts | None, dict[str, bytes]]":
    """A model without its agent: the card, with `facts` of the one to come, weights, starts and the other files."""
    from diamond_gym.world_model import PREFIXES

    entry, weights, starts = read_model(entry)
    card = entry.card
    weights = {key: value for key, value in weights.items() if not key.startswith(PREFIXES["actor_critic"])}
    extras = {kind: content for kind, content in read_extras(entry).items() if kind != AGENT}
    summary = card.summary
    if card.actor_critic is not None and "agent" not in card.training:  # the one that came with an imported model
        summary = f"{summary} Its agent is another one, trained later.".lstrip()
    card = replace(
        card,
        summary=summary,
        actor_critic=None,
        figures={key: value for key, value in card.figures.items() if key != "published"},
        training={**card.training, "agent": dict(facts)},
    )
    return card, weights, starts, extras


def update_card(entry: Entry, card: Card, extras: Mapping[str, bytes] | None = None) -> Entry:
    """Writes a changed card, and the human card with it, over the same files; for instance with new figures.

    Args:
        entry: The model whose card changes.
        card: What the card says from now on; its name and files stay those of the entry.
        extras: Contents of further files, as `save_model` takes them; those that are not named stay as they are.

    Raises:
        DamagedModel: The model has been replaced since the entry was read.
        DiskFull: There is no room left; the old card is intact.
    """
    with _replacing(entry.folder, entry.name) as staged:
        if read_entry(entry.path).card.files != entry.card.files:
            raise DamagedModel(f"{entry.path}: the model has been replaced; its card stays as it is")
        files = dict(entry.card.files) | _write_extras(staged, entry.name, extras or {})
        written = _write_cards(staged, replace(card, name=entry.name, files=files))
    return Entry(written, entry.path)


def remove(name: str) -> None:
    """Removes a model from the user's registry; of a folder that was linked in, the link alone.

    Raises:
        ModelNotFound: The user has no model of that name.
    """
    target = local_folder(name)
    if not os.path.lexists(target):
        raise ModelNotFound(f"no model '{name}' of your own in {target.parent}")
    with _one_writer(target), temporary_folder(target.parent, "model") as gone:  # out of sight first, then deleted
        os.rename(target, gone / name)


def export(entry: Entry, folder: Path, as_readme: bool = False) -> Entry:
    """Copies a verified model into a folder; the copies are verified too, before they take their places.

    Args:
        entry: The model.
        folder: Where to; made if there is none. It holds one model.
        as_readme: Write the human card as the hub wants it, README.md, instead of `<name>.md`.

    Raises:
        BadArgument: Another model lies there.
        DamagedModel: The model is not whole.
        DiskFull: There is no room left.
    """
    entry = verify(entry)
    others = [path.name for path in folder.glob("*.toml") if path.stem != entry.name and path.name[0] != "."]
    if others:
        raise BadArgument(f"{folder} holds another model already ({others[0]}): choose an empty folder")
    with _replacing(folder, entry.name) as staged:
        files = {}
        for kind, record in entry.card.files.items():
            original = entry.folder / record.name
            files[kind] = _write(staged, entry.name, kind, partial(shutil.copyfile, original))
            if files[kind].sha256 != record.sha256:
                raise DamagedModel(f"{original}: its copy differs; try again")
        card = _write_cards(staged, replace(entry.card, files=files), as_readme)
    return Entry(card, folder / f"{card.name}.toml")


@contextmanager
def _replacing(target: Path, name: str) -> Iterator[Path]:
    """Provides a folder for a model's new files; after the block they are moved into `target`, the card last.

    Then the files that the card does not name any more are removed. If the block fails, nothing has changed.
    """
    with ExitStack() as stack:
        own = stack.enter_context(_one_writer(target))
        stack.enter_context(disk_space_for(target))
        fresh = own and not target.exists()
        staged = stack.enter_context(temporary_folder(target.parent if fresh else target, "model"))
        yield staged
        if fresh:
            os.rename(staged, target)  # whole, so that nobody finds a folder without a card
        else:
            for path in sorted(staged.iterdir(), key=lambda path: path.suffix == ".toml"):
                os.replace(path, target / path.name)
        flush_folder(target.parent if fresh else target)
        # while no other process can put its files here, which the card that is read would not name
        named = {record.name for record in read_entry(target / f"{name}.toml").card.files.values()}
        for path in target.iterdir():
            match = _FILE.fullmatch(path.name)
            others = match and match[2] and path.with_name(f"{match[1]}{match[2]}.toml").exists()
            if match and match[1] == name and path.name not in named and not others:
                path.unlink(missing_ok=True)


@contextmanager
def _one_writer(folder: Path) -> Iterator[bool]:
    """Lets one process at a time change the user's registry; yields whether `folder` is in it. Readers never wait."""
    from filelock import FileLock

    with suppress(BadArgument):  # there is no home, hence no registry
        if folder.parent == models_folder():
            home_folder().mkdir(parents=True, exist_ok=True)
            with FileLock(home_folder() / ".models.lock"):
                yield True
            return
    yield False


def _apart(weights: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The tensors as safetensors wants them, each in memory of its own; copied only where that has to be."""
    taken: set[int] = set()
    apart = {}
    for key, value in weights.items():
        tensor = value.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        if storage.nbytes() != tensor.nbytes or storage.data_ptr() in taken:
            tensor = tensor.clone()
        taken.add(tensor.untyped_storage().data_ptr())
        apart[key] = tensor
    return apart


def _write_extras(folder: Path, name: str, extras: Mapping[str, bytes]) -> dict[str, FileRecord]:
    return {
        kind: _write(folder, name, kind, partial(Path.write_bytes, data=content)) for kind, content in extras.items()
    }


def _write(folder: Path, name: str, kind: str, write: Callable[[Path], object]) -> FileRecord:
    """Writes a file of a model, and gives it the name by which the card knows it."""
    path = folder / f"new{_SUFFIXES[kind]}"
    with atomic_path(path) as temporary:
        write(temporary)
    sha256 = sha256_file(path)
    path = path.rename(folder / f"{name}-{sha256[:8]}{_SUFFIXES[kind]}")
    return FileRecord(path.name, sha256, path.stat().st_size)


def _write_cards(folder: Path, card: Card, as_readme: bool = False) -> Card:
    """Writes both cards, and returns the card as a reader of the TOML has it."""
    toml = card.to_toml()
    card = Card.from_toml(toml)  # its rows in the order in which a reader of the TOML has them
    human = {"README.md": readme(card)} if as_readme else {f"{card.name}.md": human_card(card)}
    for name, text in {**human, f"{card.name}.toml": toml}.items():
        with atomic_write(folder / name, "w") as file:
            file.write(text)
    return card
