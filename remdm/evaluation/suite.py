"""The comparison that every table prints: chance, the oracle and the agents on equal levels."""

from collections.abc import Callable, Mapping, Sequence

from tqdm import tqdm

from remdm.agent import BaseAgent
from remdm.envs.contract import PlanVecEnv
from remdm.evaluation.kept_episodes import KeptEpisodes
from remdm.evaluation.policies import AgentPolicy, OraclePolicy, Policy
from remdm.evaluation.rollout import EvalRow, evaluate_policy
from remdm.evaluation.variants import CONSTRAINED, variant_policy
from remdm.oracles.contract import Oracle
from remdm.oracles.random_policy import RandomPolicy
from remdm.oracles.seed_oracle import SeedOracle
from remdm.registry import unknown_name_message
from remdm.seeding import torch_generator

# Long enough for the oracle to finish what it starts.
ORACLE_HORIZON = 64


def oracle_policy(
    oracle: Oracle, *, replan_every: int | None = None, seed: int = 0
) -> OraclePolicy:
    """The oracle as it is meant to act: the seed's anew at every step, others plan by plan."""
    if replan_every is None and isinstance(oracle, SeedOracle):
        replan_every = 1
    return OraclePolicy(oracle, plan_horizon=ORACLE_HORIZON, replan_every=replan_every, seed=seed)


def suite_policies(
    agents: Mapping[str, BaseAgent], oracle: Oracle, policies: Sequence[str] | None, seed: int
) -> list[Policy]:
    """The policies of a suite by name.

    Args:
        agents: By the name of their rows.
        oracle: The row of its own name.
        policies: Names of rows: "random", the oracle's, an agent's, an agent's with
            "+constraints" or with choices of its own (see `remdm.evaluation.variants`); None for
            all but these.
        seed: Seed of all that is drawn.

    Raises:
        ValueError: If there is no such row; names the nearest ones.
    """
    made: dict[str, Callable[[], Policy]] = {
        "random": lambda: OraclePolicy(RandomPolicy(), seed=seed),
        oracle.name: lambda: oracle_policy(oracle, seed=seed),
    }
    for name, agent in agents.items():
        for row in (name, name + CONSTRAINED):

            def make(agent: BaseAgent = agent, row: str = row) -> Policy:
                generator = torch_generator(seed, "suite", row)
                constrained = row.endswith(CONSTRAINED)
                return AgentPolicy(agent, generator, name=row, constrained=constrained)

            made[row] = make
    wanted = policies or [name for name in made if not name.endswith(CONSTRAINED)]
    policies_made: list[Policy] = []
    for name in wanted:
        if ":" in name:
            generator = torch_generator(seed, "suite", name)
            policies_made.append(variant_policy(name, agents, generator))
        elif name in made:
            policies_made.append(made[name]())
        else:
            raise ValueError(unknown_name_message("policy", name, made))
    return policies_made


def evaluate_suite(
    agents: Mapping[str, BaseAgent],
    oracle: Oracle,
    env_names: Sequence[str],
    *,
    policies: Sequence[str] | None = None,
    episodes: int,
    first_seed: int,
    rows: int,
    seed: int,
    make_vec_env: Callable[[Sequence[str]], PlanVecEnv],
    max_episode_steps: int | None = None,
    shown: bool = True,
    keep: KeptEpisodes | None = None,
) -> list[EvalRow]:
    """Play the same levels with every policy.

    Args:
        agents: By the name of their rows.
        oracle: The teacher.
        env_names: Environments, each once.
        policies: See `suite_policies`.
        episodes: Levels per environment.
        first_seed: Seed of the first level.
        rows: Most episodes of one environment played at once.
        seed: Seed of all that is drawn.
        make_vec_env: Makes the rows, given one name per row.
        max_episode_steps: Cap below the environments' own.
        shown: Show a progress bar.
        keep: Takes all episodes; none are kept when None.

    Returns:
        One row per policy and environment.
    """
    results: list[EvalRow] = []
    made = suite_policies(agents, oracle, policies, seed)
    takers = [None if keep is None else keep.of(policy) for policy in made]
    for policy, taker in zip(made, takers, strict=True):
        total = episodes * len(env_names)
        hidden = None if shown else True  # None: drawn on a terminal only
        bar = tqdm(total=total, desc=f"testing {policy.name}", unit="episode", disable=hidden)

        def tell(finished: int, total: int, won: int, bar: tqdm = bar) -> None:
            bar.set_postfix_str(f"won {won / max(finished, 1):.2f}", refresh=False)
            bar.update(finished - bar.n)

        played = evaluate_policy(
            policy,
            env_names,
            episodes=episodes,
            first_seed=first_seed,
            make_vec_env=make_vec_env,
            rows=rows,
            max_episode_steps=max_episode_steps,
            progress=tell,
            keep=taker,
        )
        bar.close()
        results += played.rows
    return results
