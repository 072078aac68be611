"""DAgger from objects: any expert, any Gymnasium environment, and what comes of it."""

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from safetensors.torch import load_file

from remdm import config
from remdm.dagger import DAggerAgent, Demonstration, ReturnEvaluator, StepsToThreshold, Validation
from remdm.training.checkpoint import CheckpointError
from tests.dagger.small_worlds import (
    LENGTH,
    Echo,
    EchoExpert,
    Follow,
    FollowExpert,
    OneHot,
    Predicting,
)

QUICK: dict[str, Any] = {
    "parallel_envs": 4,
    "steps_per_epoch": 48,
    "updates_per_epoch": 40,
    "batch_size": 32,
    "learning_rate": 1e-2,
    "bindings": {"MLP.hidden": (16,), "Experiment.lr_warmup_steps": 1},
}
TWICE = ReturnEvaluator(interval=48, episodes=3)


def trained(folder: Path, env: Any = Echo, expert: Any = None, **arguments: Any) -> DAggerAgent:
    agent = DAggerAgent(
        expert or EchoExpert(), **{**QUICK, "ckpt_base_dir": str(folder), **arguments}
    )
    agent.train(env, 96, show_progress=False)
    return agent


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> DAggerAgent:
    return trained(tmp_path_factory.mktemp("runs"))


def echoed(agent: DAggerAgent) -> float:
    """Share of right actions among 30 observations that were never seen."""
    noise = np.random.default_rng(3).uniform(-1, 1, (30, 2))
    wanted = np.arange(30) % 3
    obs = {"wanted": wanted, "inner": {"noise": noise}}
    return float((agent.act(obs, deterministic=True) == wanted).mean())


def test_numbered_actions_are_learnt_from_whoever_acts_or_predicts(
    tmp_path: Path, learnt: DAggerAgent
) -> None:
    assert echoed(learnt) == 1.0
    assert echoed(trained(tmp_path, expert=Predicting())) == 1.0


def test_vectors_are_learnt_and_stay_within_their_bounds(tmp_path: Path) -> None:
    bindings = QUICK["bindings"] | {"HeadAgent.net_type": OneHot}
    del bindings["MLP.hidden"]
    agent = trained(tmp_path, Follow, FollowExpert(), bindings=bindings, updates_per_epoch=150)
    seen = {"wanted": np.arange(3), "inner": {"noise": np.zeros((3, 2))}}
    found = agent.act(seen, deterministic=True)
    assert found.shape == (3, 1, 2)
    assert found.dtype == np.float32
    wanted = np.array([[-1.0, 1.0], [0.0, 0.0], [1.0, -1.0]])
    assert np.abs(found[:, 0] - wanted).max() < 0.2
    drawn = np.stack([agent.act(seen) for _ in range(20)])
    assert (drawn != drawn[0]).any()
    assert (np.abs(drawn) <= [[[1.0, 2.0]]]).all()


def test_one_observation_gives_one_action_and_many_give_many(learnt: DAggerAgent) -> None:
    one = {"wanted": 2, "inner": {"noise": np.zeros(2)}}
    assert learnt.act(one, deterministic=True).shape == ()
    with pytest.raises(ValueError, match="single and others are stacked"):
        learnt.act({"wanted": 2, "inner": {"noise": np.zeros((1, 2))}})
    with pytest.raises(ValueError, match="must have the arrays inner/noise, wanted, got wanted"):
        learnt.act({"wanted": 2})


def test_the_expert_is_asked_once_at_every_state_that_training_and_validation_visit(
    tmp_path: Path,
) -> None:
    expert = EchoExpert()
    agent = DAggerAgent(expert, **QUICK, ckpt_base_dir=str(tmp_path))
    agent.train(Echo, 96, show_progress=False)
    # 96 states were left by an action; in each of 4 rows one more is seen, and was asked about.
    assert expert.asked == 96 + 4


@pytest.mark.parametrize(("env", "expert"), [(Echo, EchoExpert), (Follow, FollowExpert)])
def test_going_on_after_a_stop_gives_the_policy_of_a_training_that_never_stopped(
    tmp_path: Path, env: type, expert: type
) -> None:
    whole = trained(tmp_path, env, expert(), run_name="whole")

    class Tired(expert):  # type: ignore[misc, valid-type]
        def act(self, obs: Any, deterministic: bool) -> np.ndarray:
            if self.asked > 70:
                raise KeyboardInterrupt
            found: np.ndarray = super().act(obs, deterministic)
            return found

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, env, Tired(), run_name="stopped")
    again = trained(tmp_path, env, expert(), run_name="stopped")
    seen = {"wanted": np.arange(3), "inner": {"noise": np.zeros((3, 2))}}
    first, second = (agent.act(seen, deterministic=True) for agent in (whole, again))
    np.testing.assert_array_equal(first, second)
    own, others = (
        {k: v.tolist() for k, v in agent.policy.agent.state_dict().items()}  # type: ignore[union-attr]
        for agent in (whole, again)
    )
    assert own == others


def test_a_saved_policy_acts_as_before_and_finds_the_users_net_by_its_name(tmp_path: Path) -> None:
    bindings = {"HeadAgent.net_type": OneHot, "OneHot.width": 5}
    agent = trained(tmp_path, bindings=bindings)
    folder = agent.save(tmp_path / "policy")
    loaded = DAggerAgent.load(folder)
    assert loaded.policy is not None
    assert loaded.policy.agent.net.width == 5
    assert echoed(loaded) == echoed(agent) == 1.0
    assert config.current_bindings() == []
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".gin", ".json"}


def test_a_folder_that_holds_something_else_is_refused_with_what_is_wrong(
    tmp_path: Path, learnt: DAggerAgent
) -> None:
    folder = learnt.save(tmp_path / "policy")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        DAggerAgent.load(tmp_path)
    state = json.loads((folder / "state.json").read_text())
    for change, words in (
        ({"algorithm": "PPO"}, "must hold a policy of DAgger"),
        ({"agent_type": "Nobody"}, "nothing configurable is called 'Nobody'"),
        ({"observations": {"wanted": "int"}}, "is damaged"),
        ({"action_names": ["0", "1"]}, "does not fit this model"),
    ):
        (folder / "state.json").write_text(json.dumps(state | change))
        with pytest.raises(CheckpointError, match=words):
            DAggerAgent.load(folder)
    (folder / "state.json").write_text(json.dumps(state))
    torn = (folder / "policy.safetensors").read_bytes()
    (folder / "policy.safetensors").write_bytes(torn[:-3])
    with pytest.raises(CheckpointError, match="is damaged"):
        DAggerAgent.load(folder)


def demonstration(length: int) -> Demonstration:
    rng = np.random.default_rng(length)
    wanted = [int(n) for n in rng.integers(3, size=length)]
    seen = [{"wanted": n, "inner": {"noise": rng.uniform(-1, 1, 2)}} for n in wanted]
    return Demonstration(seen, wanted)


def test_demonstrations_teach_where_the_expert_is_never_followed_to(tmp_path: Path) -> None:
    class Silent(EchoExpert):
        """Knows nothing but one action: what is learnt right comes from the demonstrations."""

        def act(self, obs: Any, deterministic: bool) -> np.ndarray:
            return np.zeros(len(super().act(obs, deterministic)), np.int64)

    given = [demonstration(60), demonstration(50)]
    bindings = {"Experiment.start_collecting_at_epoch": 2, "HeadAgent.net_type": OneHot}
    arguments: dict[str, Any] = {"bindings": bindings, "updates_per_epoch": 80}
    agent = trained(tmp_path, expert=Silent(), demonstrations=given, **arguments)
    assert echoed(agent) == 1.0
    # Their folder serves as well, and is read only.
    before = sorted((tmp_path / "dagger").rglob("*.safetensors"))
    other = trained(
        tmp_path, expert=Silent(), demonstrations=tmp_path / "dagger", run_name="copy", **arguments
    )
    assert echoed(other) == 1.0
    assert sorted((tmp_path / "dagger").rglob("*.safetensors")) == before


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "at least one episode"),
        ([Demonstration([{"wanted": 1}], [])], "as many observations as actions"),
        ([Demonstration([demonstration(1).observations[0]], [3])], "numbers below 3"),
        ("nowhere", "has no shards"),
    ],
)
def test_demonstrations_that_do_not_fit_are_refused(tmp_path: Path, given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        trained(tmp_path, demonstrations=given)


def test_metrics_reach_the_logger_and_schedulers_follow_the_env_steps(tmp_path: Path) -> None:
    heard: list[tuple[int, dict[str, float]]] = []
    agent = DAggerAgent(EchoExpert(), **QUICK, ckpt_base_dir=str(tmp_path))
    last = agent.train(
        Echo,
        96,
        schedulers={"Experiment.learning_rate": lambda steps: 1e-2 if steps < 48 else 1e-3},
        logger=lambda metrics, steps: heard.append((steps, dict(metrics))),
        evaluator=[TWICE, StepsToThreshold(5.5, interval=48, episodes=3)],
        show_progress=False,
    )
    epochs = [metrics for _, metrics in heard if "val/return" in metrics]
    assert [steps for steps, metrics in heard if "val/return" in metrics] == [48, 96]
    assert epochs[-1].items() <= last.items()
    assert [m["schedule/Experiment.learning_rate"] for m in epochs] == [1e-2, 1e-3]
    assert last["val/return_best"] == max(m["val/return_mean"] for m in epochs)
    assert last["val/steps_to_threshold"] in (48.0, 96.0)
    assert [m["val/steps"] for m in epochs] == [LENGTH, LENGTH]
    # The weights with the best validation act in the end.
    assert agent.policy is not None
    kept = load_file(next((tmp_path / "dagger" / "best").glob("planner_ema.safetensors")))
    assert all(bool((v == kept[k]).all()) for k, v in agent.policy.agent.state_dict().items())


def test_a_head_learns_and_acts_by_scheduled_numbers_as_by_bound_ones(tmp_path: Path) -> None:
    numbers = {"CategoricalHead.label_smoothing": 0.3, "CategoricalHead.temperature": 3.0}

    def weights(name: str, bound: dict[str, float], followed: dict[str, float]) -> dict[str, Any]:
        bindings = QUICK["bindings"] | bound
        schedulers = {key: lambda steps, value=value: value for key, value in followed.items()}
        place = {"ckpt_base_dir": str(tmp_path), "run_name": name}
        agent = DAggerAgent(EchoExpert(), **QUICK | place | {"bindings": bindings})
        last = agent.train(Echo, 96, schedulers=schedulers, show_progress=False)
        assert agent.policy is not None
        found = {key: array.tolist() for key, array in agent.policy.agent.state_dict().items()}
        return found | {"collected": last["collect/return/Gymnasium:Echo"]}

    assert weights("bound", numbers, {}) == weights("scheduled", {}, numbers)
    (smoothing, hot) = ({key: value} for key, value in numbers.items())
    alone = [weights("smoothing", {}, smoothing), weights("hot", {}, hot), weights("none", {}, {})]
    assert alone[0] != alone[2]
    assert alone[1] != alone[2]


def test_an_evaluator_tells_mean_spread_best_and_the_first_step_past_a_threshold() -> None:
    played = Validation(300, np.array([1.0, 3.0]), np.array([5, 5]), [(100, 1.5), (200, 2.5)])
    told = ReturnEvaluator()(played)
    assert told == {
        "return_mean": 2.0,
        "return_std": 1.0,
        "return_min": 1.0,
        "return_max": 3.0,
        "return_best": 2.5,
    }
    assert StepsToThreshold(2.0)(played) == {"steps_to_threshold": 200.0}
    assert StepsToThreshold(2.6)(played) == {}
    with pytest.raises(ValueError, match="at least 1"):
        ReturnEvaluator(interval=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"env": Echo()}, "hand train a function that makes one"),
        ({"env": "Nowhere-v0"}, "Nowhere"),
        ({"expert": object()}, "must have act"),
        ({"expert": type("Wrong", (), {"act": lambda *_, **__: np.zeros(99)})()}, "must answer"),
        (
            {"expert": type("Far", (), {"act": lambda s, o, deterministic: o["wanted"] + 7})()},
            "must be numbers below 3",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_in_words(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises((ValueError, gymnasium.error.Error), match=words):
        trained(tmp_path, **change)


def test_an_agent_without_an_expert_or_a_policy_says_what_it_lacks() -> None:
    with pytest.raises(ValueError, match="train needs an expert"):
        DAggerAgent().train("CartPole-v1", 10)
    with pytest.raises(ValueError, match="learnt nothing yet"):
        DAggerAgent().act(np.zeros(4))


@pytest.mark.parametrize("env_mode", ["sync", "async"])
def test_an_environment_may_be_named_made_or_handed_over_as_what_makes_it(
    env_mode: str, tmp_path: Path
) -> None:
    class Right:
        def act(self, obs: np.ndarray, deterministic: bool) -> np.ndarray:
            return np.ones(len(obs), np.int64)

    given: dict[str, Any] = {
        "named": "CartPole-v1",
        "made": gymnasium.make("CartPole-v1", max_episode_steps=7),
        "makes": lambda: gymnasium.make("CartPole-v1"),
    }
    modes = QUICK["bindings"] | {
        "Experiment.env_mode": env_mode, "Experiment.num_env_workers": 1,
    }  # fmt: skip
    for name, env in given.items():
        agent = DAggerAgent(
            Right(), **QUICK | {"run_name": name, "ckpt_base_dir": str(tmp_path), "bindings": modes}
        )
        if env_mode == "async" and name != "named":
            with pytest.raises(ValueError, match=r"set Experiment\.env_mode = 'sync'"):
                agent.train(env, 48, show_progress=False)
            continue
        told = agent.train(env, 48, show_progress=False)
        assert agent.act(np.zeros(4), deterministic=True) == 1
        # The made one is cut after seven steps; in the others no row falls in so few.
        assert (told["collect/episodes"] >= 4) == (name == "made")


def test_bindings_of_the_user_win_and_stay_as_they_were(tmp_path: Path) -> None:
    with config.gin_sandbox():
        config.load_config(bindings=["MLP.hidden = (7,)"])
        agent = trained(tmp_path)
        assert agent.policy is not None
        assert agent.policy.agent.net.width == 7
        assert [b.name for b in config.current_bindings()] == ["MLP.hidden"]
