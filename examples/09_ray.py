"""The gridworld run of `00_gridworld.py` on a Ray cluster, in the open.

Every process of the run is an actor: a learner, a labeller, a validator and a few collectors. What
an actor runs is the command line of its role, here that of another example. Ray finds places for
them and starts again what dies. They talk through the run folder alone, so all machines of the
cluster must see it; where they do not, use `remdm launch --engine ray --transport ray`, which does
all that is done here, and more.

    python examples/09_ray.py
    python examples/09_ray.py --collectors 4 --ray_address auto       (a cluster that runs already)

What you should see: the lines of all processes with their names before them, and at the end the
table of `00_gridworld.py`. Kill one of them meanwhile, and see it come back (`ps aux | grep
ray::`). Ctrl-C stops all with a checkpoint, and the same command goes on from there.

Time: two minutes on two CPU cores, most of it for starting six processes.
Needs the extra `ray`: pip install -e '.[ray]' -c constraints.txt
"""

import argparse
import logging
from pathlib import Path

from remdm.data.folder import DatasetFolder
from remdm.distributed.launch import Part, Supervisor
from remdm.distributed.ray_engine import RayEngine
from remdm.distributed.role_progress import RoleProgress
from remdm.training.run_folder import RunFolder

SCRIPT = Path(__file__).with_name("00_gridworld.py")


def main() -> int:
    parser = argparse.ArgumentParser(description="Learn to plan in a gridworld on a Ray cluster.")
    parser.add_argument("--run_name", default="gridworld_ray")
    parser.add_argument("--ckpt_base_dir", type=Path, default=Path("runs"))
    parser.add_argument("--configs", nargs="+", default=["gridworld.gin"])
    parser.add_argument("--collectors", type=int, default=2)
    parser.add_argument("--ray_address", help="of a cluster; one of this machine if not given")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("remdm").setLevel(logging.INFO)

    folder = RunFolder(args.ckpt_base_dir / args.run_name)
    words = [str(SCRIPT), "--run_name", args.run_name, "--ckpt_base_dir", str(args.ckpt_base_dir)]
    words += ["--configs", *args.configs]

    def part(role: str, *own: str, index: int = 0) -> Part:
        return Part(role, index, (*words, "--mode", role, *own))

    parts = [part("learn"), part("label", "--index", "0"), part("validate")]
    parts += [part("collect", "--index", str(n), index=n) for n in range(args.collectors)]

    # Where processes run is the engine's matter; when they are started again, the supervisor's.
    engine = RayEngine(folder.root, parts, address=args.ray_address)
    progress = RoleProgress(folder, DatasetFolder(folder.root))
    return Supervisor(engine, parts, progress).run()


if __name__ == "__main__":
    raise SystemExit(main())
