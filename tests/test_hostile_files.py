"""Hostile files of starts, weights, checkpoints and agents: each ends in one line, and runs nothing."""

import copy
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hostile import DEEP, LONG, VALUES, attempt, both, changed, dreamed, places, raw, some
from released import tiny_release
from stubs import make_starts, save_tiny_model

from diamond_gym.files import sha256_file
from diamond_gym.registry import Entry, load_world_model, resolve
from diamond_gym.registry.card import FileRecord
from diamond_gym.registry.released import read_released


def with_file(entry: Entry, kind: str, content: bytes) -> None:
    """Puts a file in place of a model's, and its hash into the card."""
    path = entry.file(kind)
    assert path is not None
    path.write_bytes(content)
    record = FileRecord(path.name, sha256_file(path), len(content))
    entry.path.write_text(replace(entry.card, files={**entry.card.files, kind: record}).to_toml())


def npz(path: Path, arrays: dict[str, Any], **more: bytes) -> bytes:
    np.savez_compressed(path, **arrays)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, content in more.items():
            archive.writestr(f"{name}.npy", content)
    return path.read_bytes()


def header(shape: str, descr: str = "'|u1'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@both
def test_starts(whole: bool, tmp_path: Path) -> None:
    save_tiny_model()
    entry, path = resolve("tiny"), tmp_path / "x.npz"
    starts = make_starts(size=16)
    arrays = {"obs": starts.obs, "act": starts.act, "first": starts.first}
    cases: list[tuple[str, bytes]] = []
    for name, array in arrays.items():
        others = {key: value for key, value in arrays.items() if key != name}
        bad: dict[str, Any] = {
            "float": array.astype(float),
            "objects": np.array([{}]),
            "empty": array[:0],
            "one more": array[1:],
            "scalar": np.array(0),
            "text": array.astype(str),
            "deeper": array[None],
            "complex": array.astype(complex),
            "time": np.zeros(array.shape, "M8[s]"),
            "small": array[:, :1] if array.ndim > 1 else array[:1],
            "void": np.zeros(array.shape, "V4"),
        }
        if name == "act":
            bad |= {
                "negative": array - 1,
                "too large": array + 4,
                "extreme": array + 2**62,
                "many-hot": array[..., None],
            }
        if name == "obs":
            bad |= {"grey": array[..., :1], "large": array.repeat(2, axis=2), "longer": array.repeat(2, axis=1)}
        cases += [(f"{name} {what}", npz(path, {**others, name: value})) for what, value in bad.items()]
        cases.append((f"{name} missing", npz(path, others)))
        for shape in (
            "(1000000000000,)",
            "(10**9,)",
            "(-1, 4)",
            "(2, 4, 16, 16, 3)",
            "((1,),)",
            "'x'",
            "9" * 5000,
            DEEP,
        ):
            cases.append((f"{name} says {shape[:20]}", npz(path, others, **{name: header(shape) + b"\0" * 10})))
        for descr in ("'|O'", "'V99999999999'", "[('a', '|u1')]", "'?!'", "None", "'<U999999999'"):
            cases.append((f"{name} of {descr}", npz(path, others, **{name: header("(6,)", descr) + b"\0" * 6})))
        cases.append((f"{name} no array", npz(path, others, **{name: b"PK?"})))
    good = npz(path, arrays)
    cases += [
        ("following", npz(path, {**arrays, "next_act": np.full((6, 2), 77, np.int8)})),
        ("nothing", b""),
        ("text", b"hi"),
    ]
    cases += [("full size", npz(path, {**arrays, "full_res": np.zeros((6, 1, 9, 9, 3), np.uint8)}))]
    cases += [("large of nothing", npz(path, {**arrays, "obs": np.zeros((6, 4, 3000, 3000, 3), np.uint8)}))] * whole
    cases += [(f"cut at {n}", good[:n]) for n in range(1, len(good), len(good) // 12)]

    def use(case: tuple[str, bytes]) -> None:
        with_file(entry, "starts", case[1])
        dreamed()

    attempt(cases if whole else some(cases), use, lambda case: True)


@both
def test_weights(whole: bool) -> None:
    save_tiny_model()
    entry = resolve("tiny")
    path = entry.file("weights")
    assert path is not None
    good = path.read_bytes()
    length = int.from_bytes(good[:8], "little")
    table = json.loads(good[8 : 8 + length])
    key = next(iter(table))

    def again(change: Callable[[dict[str, Any]], Any]) -> bytes:
        other = copy.deepcopy(table)
        change(other)
        text = json.dumps(other).encode()
        return len(text).to_bytes(8, "little") + text + good[8 + length :]

    cases: list[tuple[str, bytes]] = [("nothing", b""), ("text", b"hello"), ("long", b"\xff" * 64)]
    cases += [(f"cut at {n}", good[:n]) for n in (1, 8, 9, length, len(good) // 2, len(good) - 1)]
    for field, values in {
        "dtype": ["F8_E4M3", "I64", "BOOL", "F7", 3, None, "U8"],
        "shape": [[10**12], [-1], [], "x", [10**18, 10**18], None],
        "data_offsets": [[0, 10**15], [5, 1], [-1, 3], [0], "x", [0, 1]],
    }.items():
        cases += [(f"{field} {value}", again(lambda t, f=field, v=value: t[key].update({f: v}))) for value in values]
    cases += [("renamed", again(lambda t: t.update(x=t.pop(key)))), ("fewer", again(lambda t: t.pop(key)))]
    cases += [("deep", len(DEEP).to_bytes(8, "little") + DEEP.encode())]
    state = load_world_model("tiny", "cpu", "float32").weights()
    from safetensors.torch import save

    for what, value in {"nan": float("nan"), "inf": float("inf")}.items():
        cases.append((what, save({k: v * value if k == key else v.contiguous() for k, v in state.items()})))
    for dtype in (torch.float8_e4m3fn, torch.int32, torch.bool):
        cases.append((str(dtype), save({k: v.to(dtype) if k == key else v.contiguous() for k, v in state.items()})))

    def use(case: tuple[str, bytes]) -> None:
        with_file(entry, "weights", case[1])
        dreamed()

    attempt(cases if whole else some(cases), use, lambda case: True)


@both
def test_checkpoints(whole: bool, tmp_path: Path) -> None:
    pt, config, env = tiny_release(tmp_path)
    good, state = pt.read_bytes(), torch.load(pt, weights_only=True)
    keys = [
        next(key for key in state if key.startswith(part)) for part in ("denoiser", "rew_end_model", "actor_critic")
    ]
    changes: dict[str, Callable[[torch.Tensor], Any]] = {
        "meta": lambda t: t.to("meta"),
        "float8": lambda t: t.to(torch.float8_e5m2),
        "complex": lambda t: t.to(torch.complex64),
        "whole": lambda t: t.int(),
        "bool": lambda t: t.bool(),
        "sparse": lambda t: t.to_sparse(),
        "nan": lambda t: t * float("nan"),
        "infinite": lambda t: t * float("inf"),
        "one": lambda t: t.new_zeros(()),
        "empty": lambda t: t[:0],
        "text": lambda t: "x",
        "nested": lambda t: {"x": t},
        "list": lambda t: [t],
        "none": lambda t: None,
        "overlapping": lambda t: t.new_zeros(1).expand(t.shape),
        "huge": lambda t: t.new_zeros(1).expand(10**6, 10**6),
        "larger": lambda t: t.repeat(*[2] * t.ndim),
        "strided": lambda t: torch.as_strided(t.new_zeros(4), t.shape, [0] * t.ndim),
        "turned": lambda t: t.flatten(),
        "number": lambda t: 3,
        "quantised": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    }
    cases: list[tuple[str, Any]] = [(f"{what} {key}", (key, what)) for key in keys for what in changes]
    cases += [(f"cut at {n}", good[:n]) for n in range(0, len(good), len(good) // 12)]
    cases += [
        ("text", b"hello"),
        ("pickle", b"cos\nsystem\n(S'x'\ntR."),
        ("deep", b"(" * 5000),
        ("zip", b"PK\x05\x06" + b"\0" * 18),
    ]

    def use(case: tuple[str, Any]) -> None:
        if isinstance(case[1], bytes):
            pt.write_bytes(case[1])
        else:
            key, what = case[1]
            torch.save({**state, key: changes[what](state[key])}, pt)
        read_released(pt, config, env, "Breakout")

    attempt(cases if whole else some(cases), use, lambda case: True)


@both
def test_agents_of_stable_baselines(whole: bool, tmp_path: Path) -> None:
    ppo = pytest.importorskip("stable_baselines3").PPO
    from stable_baselines3.common.vec_env import DummyVecEnv

    from diamond_gym.trainers.sb3_files import open_agent

    class Frames(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Box(0, 255, (36, 36, 3), np.uint8)
        action_space = gymnasium.spaces.Discrete(4)

    agent = ppo(
        "CnnPolicy", DummyVecEnv([Frames]), n_steps=8, policy_kwargs={"features_extractor_kwargs": {"features_dim": 16}}
    )
    path = tmp_path / "agent.zip"
    agent.save(path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    table = json.loads(files["data"])
    read = ("observation_space", "action_space", "policy_kwargs", "policy_class", "n_steps")
    cases: list[Any] = [(place, value) for key in read for place in places(table[key], (key,)) for value in VALUES]
    cases += [((key,), value) for key in ("exploration_rate", "more") for value in VALUES]
    for extra in (
        {"net_arch": [10**6] * 3},
        {"net_arch": [4000] * 300},
        {"features_extractor_kwargs": {"features_dim": 10**9}},
        {"nonsense": 1},
        {"optimizer_class": "x"},
        {"n_lstm_layers": 10**6},
        {"activation_fn": "x"},
    ):
        cases.append((("policy_kwargs",), extra))
    members = [
        (name, content)
        for name in ("data", "policy.pth", "diamond_gym.json")
        for content in (
            b"",
            b"[]",
            b"{}",
            b"null",
            DEEP.encode(),
            LONG.encode(),
            b'{"game": 3, "obs_shape": 1}',
            b"\xff\xfe",
            good_cut(files, name),
        )
    ]

    def use(case: Any) -> None:
        place, value = case
        changes = (
            {place: value}
            if isinstance(place, str)
            else {"data": raw(json.dumps(changed(table, place, value))).encode()}
        )
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in {**files, **changes}.items():
                archive.writestr(name, content)
        open_agent(path, "cpu")

    def nonsense(case: Any) -> bool:
        place, value = case
        if isinstance(place, str):
            return place != "diamond_gym.json" or value not in (b"",)
        odd = isinstance(value, str | list) or value != value or value == 10**18
        return place in (("observation_space", "_shape"), ("action_space", "n")) and odd

    cases += members
    attempt(cases if whole else some(cases), use, nonsense)


def good_cut(files: dict[str, bytes], name: str) -> bytes:
    """Half of a file."""
    return files.get(name, b"{")[: len(files.get(name, b"{")) // 2]
