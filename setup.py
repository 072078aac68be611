"""What the package is and needs. Tool settings are in pyproject.toml, exact versions in
constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
version: dict[str, str] = {}
exec((ROOT / "remdm/_version.py").read_text(encoding="utf-8"), version)
readme = ROOT / "README.md"

EXTRAS = {
    # minihack imports pkg_resources, which setuptools 81 removes.
    "minihack": ["nle>=1.2", "minihack>=1.0", "setuptools<81"],
    "craftax": ["craftax>=1.6.1", "flax>=0.10", "jax>=0.7", "optax>=0.2"],
    "wandb": ["wandb"],
    "tensorboard": ["tensorboard"],
    "baselines": ["stable-baselines3>=2.7,<3", "sb3-contrib>=2.7,<3"],
    "minari": ["minari[hdf5]>=0.5.3"],
    "ray": ["ray>=2.60,<3"],
    "slurm": ["submitit>=1.5"],
    "dev": ["pytest>=8", "pytest-xdist>=3.6", "ruff", "mypy"],
}
EXTRAS["all"] = sorted({need for needs in EXTRAS.values() for need in needs})

setup(
    name="remdm",
    version=version["__version__"],
    description="Planners that write whole action plans by masked diffusion and learn them from "
    "an oracle",
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    author="remdm contributors",
    license="MIT",
    python_requires=">=3.11,<3.14",
    # Named, because the folders beside the package would stop automatic discovery.
    packages=find_packages(include=["remdm", "remdm.*"]),
    package_data={"remdm": ["py.typed"]},
    zip_safe=False,
    install_requires=[
        "accelerate>=1.0",
        "einops>=0.8",
        "gin-config>=0.5",
        "gymnasium>=1.0,<2",
        "matplotlib>=3.8",
        "numba>=0.60",
        "numpy>=1.26",
        "packaging>=23",
        "pillow>=10",
        "rich>=13",
        "safetensors>=0.4",
        "torch>=2.6",
        "tqdm>=4.66",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["remdm = remdm.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
