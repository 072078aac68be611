"""The published MiniHack planner's training loop in plain PyTorch and plain Python, to time it.

Written for the comparison from a description of it: one episode after the other in each of eight
threads, one network call per episode and denoising step that begins with the observation, an
oracle that searches with lists, a buffer of whole windows. Nothing of ours is used but the making
of environments, and its oracle's search (benchmarks/collect_demos.py).
"""

import copy
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.collect_demos import plain_seed_plan
from remdm.envs.minihack import make_stock_env
from remdm.oracles.seed_oracle import seen_terrain

NUM_ACTIONS, MASK, PAD = 12, 12, 13
HORIZON, REPLAN_EVERY, DENOISE_STEPS = 64, 16, 5
CROP, OUTSIDE, STAIRS = 9, 13, 2383
MAX_STEPS, THREADS, CAPACITY, EFFICIENT = 500, 8, 10_000, 1.5
LEARNING_RATE, WEIGHT_DECAY, CLIP, EMA_DECAY, GOAL_WEIGHT = 3e-5, 1e-4, 1.0, 0.999, 0.5


Clocks = tuple[float, float]


def clocks() -> Clocks:
    """Seconds on the wall and of the processors."""
    return time.perf_counter(), time.process_time()


def parts_of(began: Clocks, collected: Clocks, trained: Clocks, steps: int) -> dict[str, float]:
    """Seconds of an iteration and of its parts, by both clocks, and its env steps."""
    found: dict[str, float] = {}
    for index, clock in enumerate(("", "cpu ")):
        found[clock.strip() or "seconds"] = trained[index] - began[index]
        found[f"{clock}collecting"] = collected[index] - began[index]
        found[f"{clock}training"] = trained[index] - collected[index]
    return found | {"env steps": steps}


class PlainNet(nn.Module):
    """The dual-stream transformer."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.local_glyphs, self.map_glyphs = nn.Embedding(6000, 64), nn.Embedding(6000, 32)
        self.local = nn.Sequential(
            nn.Conv2d(64, 32, 3, padding=1), nn.GELU(),
            nn.Conv2d(32, 64, 3, padding=1), nn.GELU(),
            nn.Flatten(), nn.Linear(64 * CROP * CROP, width),
        )  # fmt: skip
        self.map = nn.Sequential(
            nn.Conv2d(32, 32, 5, stride=2, padding=2), nn.GELU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.GELU(),
            nn.AdaptiveAvgPool2d((2, 4)),
        )  # fmt: skip
        self.map_out = nn.Linear(64, width)
        self.gate = nn.Parameter(torch.tensor(-3.0))
        self.goal = nn.Sequential(nn.Linear(width, 128), nn.GELU(), nn.Linear(128, 2))
        self.tokens, self.times = nn.Embedding(14, width), nn.Embedding(100, width)
        self.places = nn.Embedding(HORIZON, width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 1024, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(width, NUM_ACTIONS)

    def forward(
        self, crop: Tensor, glyphs: Tensor, plan: Tensor, bins: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits [B, 64, 12] and the guessed stairs [B, 2]."""
        local = self.local(self.local_glyphs(crop).permute(0, 3, 1, 2))[:, None]
        cells = self.map(self.map_glyphs(glyphs).permute(0, 3, 1, 2))
        whole = self.map_out(cells.flatten(2).transpose(1, 2))
        place = torch.arange(HORIZON, device=plan.device)
        tokens = self.tokens(plan) + self.times(bins)[:, None] + self.places(place)
        seen = [local, torch.sigmoid(self.gate) * whole, tokens]
        out = self.transformer(torch.cat(seen, 1))
        return self.head(out[:, -HORIZON:]), self.goal(whole.mean(1))


def plain_weights(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of our `DualStreamDenoiser` under the names of `PlainNet`."""
    fixed = {
        "local_stream.glyphs": "local_glyphs", "local_stream.first": "local.0",
        "local_stream.second": "local.2", "local_stream.out": "local.5",
        "global_stream.glyphs": "map_glyphs", "global_stream.first": "map.0",
        "global_stream.second": "map.2", "global_stream.out": "map_out",
        "goal_head": "goal", "positions": "places",
    }  # fmt: skip
    in_layer = {
        "norm": "norm1", "out": "self_attn.out_proj", "hidden_norm": "norm2",
        "hidden_in": "linear1", "hidden_out": "linear2",
    }  # fmt: skip
    renamed = {}
    for name, value in ours.items():
        if name.startswith("layers."):
            _, number, part, kind = name.split(".")
            inner = f"self_attn.in_proj_{kind}" if part == "qkv" else f"{in_layer[part]}.{kind}"
            renamed[f"transformer.layers.{number}.{inner}"] = value
            continue
        for old, new in fixed.items():
            if name.startswith(f"{old}."):
                name = new + name.removeprefix(old)
                break
        renamed[name] = value
    return renamed


def crop_of(glyphs: np.ndarray, chars: np.ndarray) -> np.ndarray:
    """The glyphs around the first "@", int16 [9, 9]."""
    found = np.argwhere(chars == ord("@"))
    if not len(found):
        return np.full((CROP, CROP), OUTSIDE, np.int16)
    row, col = found[0]
    padded = np.pad(glyphs, CROP // 2, constant_values=OUTSIDE)
    return padded[row : row + CROP, col : col + CROP].astype(np.int16)


@torch.no_grad()
def greedy_plan(net: PlainNet, crop: np.ndarray, glyphs: np.ndarray) -> list[int]:
    """One plan; the observation goes through the net at every denoising step."""
    crops = torch.from_numpy(crop.astype(np.int64))[None]
    maps = torch.from_numpy(glyphs.astype(np.int64))[None]
    plan = torch.full((1, HORIZON), MASK)
    for step in range(1, DENOISE_STEPS + 1):
        bins = torch.tensor([int(100 * (1 - step / DENOISE_STEPS))])
        probabilities = net(crops, maps, plan, bins)[0].softmax(-1)
        sure, best = probabilities.max(-1)
        hidden = plan == MASK
        count = min(int(hidden.sum()), max(1, HORIZON * step // DENOISE_STEPS))
        if not count:
            continue
        chosen = sure.masked_fill(~hidden, -1.0).topk(count).indices
        plan.scatter_(1, chosen, best.gather(1, chosen))
    return [int(token) for token in plan[0]]


@dataclass
class Demonstration:
    """Windows of one episode of the oracle, or the length of one of the planner."""

    crops: list[np.ndarray]
    maps: list[np.ndarray]
    actions: list[int]
    won: bool
    steps: int


def play(env: Any, seed: int, cap: int, net: PlainNet | None) -> Demonstration:
    """An episode of the planner, or of the oracle where there is no net."""
    env.unwrapped.seed(core=seed, disp=seed, reseed=False)
    seen, _ = env.reset()
    played = Demonstration([], [], [], won=False, steps=0)
    plan: list[int] = []
    while played.steps < cap:
        glyphs, chars = seen["glyphs"].astype(np.int16), seen["chars"]
        crop = crop_of(glyphs, chars)
        if net is not None:
            if not plan:
                plan = greedy_plan(net, crop, glyphs)[:REPLAN_EVERY]
            action = plan.pop(0)
        else:
            place = np.argwhere(chars == ord("@"))
            row, col = place[0] if len(place) else (0, 0)
            terrain = seen_terrain(glyphs).tolist()
            action = plain_seed_plan(terrain, int(row), int(col), played.steps)[0]
            played.crops.append(crop)
            played.maps.append(glyphs.copy())
            played.actions.append(action)
        seen, reward, terminated, truncated, _ = env.step(action % env.action_space.n)
        played.steps += 1
        if terminated or truncated:
            played.won = bool(terminated and reward > 0)
            break
    return played


class PlainLoop:
    """The training run: a net, its average, an optimiser, a buffer and environments."""

    def __init__(self, caps: dict[str, int]) -> None:
        """With environments as large a pool as an iteration may need, made outside the clock."""
        self.caps = caps
        self.net = PlainNet()
        self.average = [p.detach().clone() for p in self.net.parameters()]
        self.optimiser = torch.optim.AdamW(
            self.net.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY
        )
        self.buffer: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.stacked: tuple[np.ndarray, ...] = ()
        self.copies = [copy.deepcopy(self.net).eval() for _ in range(THREADS)]
        self.envs: dict[tuple[str, int], Any] = {
            (name, thread): make_stock_env(name, observation_keys=("glyphs", "chars"))
            for name in caps
            for thread in range(THREADS)
        }
        self.rng = np.random.default_rng(0)

    def act_by(self, weights: dict[str, Tensor]) -> None:
        """Let the planner's episodes be those of these weights."""
        for net in self.copies:
            net.load_state_dict(weights)

    def learn_from(self, weights: dict[str, Tensor]) -> None:
        """Begin with these weights."""
        self.net.load_state_dict(weights)

    def warm_start(self, levels: Sequence[tuple[str, int]]) -> None:
        """Oracle episodes before the first iteration."""
        for name, seed in levels:
            self.add(play(self.envs[name, 0], seed, self.caps[name], None))

    def add(self, episode: Demonstration) -> None:
        """Put all windows of an episode into the buffer."""
        for start in range(len(episode.actions)):
            actions = np.full(HORIZON, PAD, np.int64)
            tail = episode.actions[start : start + HORIZON]
            actions[: len(tail)] = tail
            self.buffer.append((episode.crops[start], episode.maps[start], actions))
        del self.buffer[:-CAPACITY]
        self.stacked = ()

    def collect(self, levels: Sequence[tuple[str, int]]) -> int:
        """All pairs of an iteration; env steps of planner and oracle."""
        steps = 0
        with ThreadPoolExecutor(THREADS) as pool:
            tasks = [levels[thread::THREADS] for thread in range(THREADS)]
            results = pool.map(self._pairs, range(THREADS), tasks)
            for planner, oracle in (pair for pairs in results for pair in pairs):
                steps += planner.steps + oracle.steps
                if not planner.won or planner.steps > EFFICIENT * oracle.steps:
                    self.add(oracle)
        return steps

    def _pairs(
        self, thread: int, levels: Sequence[tuple[str, int]]
    ) -> list[tuple[Demonstration, Demonstration]]:
        return [
            (
                play(self.envs[name, thread], seed, self.caps[name], self.copies[thread]),
                play(self.envs[name, thread], seed, self.caps[name], None),
            )
            for name, seed in levels
        ]

    def update(self, batch_size: int) -> None:
        """One gradient step."""
        if not self.stacked:
            self.stacked = tuple(np.stack(column) for column in zip(*self.buffer, strict=True))
        rows = self.rng.integers(len(self.buffer), size=batch_size)
        crops, maps, target = (torch.from_numpy(a[rows].astype(np.int64)) for a in self.stacked)
        time_ = torch.rand(batch_size).clamp(1e-5, 1 - 1e-5)
        hidden = (torch.rand(target.shape) < time_[:, None]) & (target != PAD)
        noisy = torch.where(hidden, MASK, target)
        logits, guess = self.net(crops, maps, noisy, (100 * time_).long().clamp(0, 99))
        loss = F.cross_entropy(logits[hidden], target[hidden])
        found = (maps == STAIRS).flatten(1)
        visible = found.any(1)
        if visible.any():
            place = found[visible].to(torch.uint8).argmax(1)
            height, width = maps.shape[1:]
            stairs = torch.stack([place // width / (height - 1), place % width / (width - 1)], 1)
            loss = loss + GOAL_WEIGHT * F.mse_loss(guess[visible], stairs)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), CLIP)
        self.optimiser.step()
        with torch.no_grad():
            torch._foreach_mul_(self.average, EMA_DECAY)
            torch._foreach_add_(self.average, list(self.net.parameters()), alpha=1 - EMA_DECAY)

    def iteration(
        self, levels: Sequence[tuple[str, int]], updates: int, batch_size: int
    ) -> dict[str, float]:
        """One DAgger iteration; seconds of its parts, and env steps."""
        began = clocks()
        steps = self.collect(levels)
        collected = clocks()
        for _ in range(updates):
            self.update(batch_size)
        return parts_of(began, collected, clocks(), steps)

    def close(self) -> None:
        """Close all environments."""
        for env in self.envs.values():
            env.close()


class LoopApart:
    """A `PlainLoop` in a process of its own, whose allocator is as the C library has it."""

    def __init__(self, caps: dict[str, int]) -> None:
        """See `PlainLoop`; it uses as many threads as torch does here."""
        spawn = multiprocessing.get_context("spawn")
        made = (caps, torch.get_num_threads())
        self._pool = ProcessPoolExecutor(1, spawn, _make_here, made)

    def call(self, method: str, *arguments: Any) -> Any:
        """What this method of the loop returns; waits for it."""
        return self._pool.submit(_call_here, method, arguments).result()

    def close(self) -> None:
        """Close the loop, and end its process."""
        self.call("close")
        self._pool.shutdown()


_here: list[PlainLoop] = []  # in its own process, one


def _make_here(caps: dict[str, int], threads: int) -> None:
    torch.set_num_threads(threads)
    _here.append(PlainLoop(caps))


def _call_here(method: str, arguments: Sequence[Any]) -> Any:
    return getattr(_here[0], method)(*arguments)
