"""The example packages: as they stand in the checkout, for tests of their pure parts; and installed by pip into a fresh
virtual environment, for labs whose nodes run from there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from tests.examples.labs import PYTHON, ROOT, Lab

EXAMPLES = os.path.join(ROOT, "examples")
for package in ("app-search", "app-crawl"):
    sys.path.append(os.path.join(EXAMPLES, package))

CHECKS = """
import importlib.metadata as m
print(*sorted(f"{p.name}={p.value}" for p in m.entry_points(group="ipdc_edge.apps")))
"""


class Environment:
    """A virtual environment that sees Debian's packages, as a user would make it."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.python = os.path.join(directory, "bin", "python")
        subprocess.run([PYTHON, "-m", "venv", "--system-site-packages", directory], check=True, timeout=120)

    def install(self, package: str, *options: str) -> None:
        """`pip install` of an example from a copy, because setuptools leaves files beside what it builds."""
        copy = tempfile.mkdtemp(prefix="ipdc-example-")
        try:
            source = os.path.join(copy, package)
            ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
            shutil.copytree(os.path.join(EXAMPLES, package), source, ignore=ignored)
            command = [self.python, "-m", "pip", "install", "--quiet", *options, source]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        finally:
            shutil.rmtree(copy)
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"

    def packages(self) -> str:
        """The directory of what is installed."""
        words = [self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    def registered(self) -> list[str]:
        """"name=module:class" of the architectures that packages offer there."""
        words = subprocess.run([self.python, "-c", CHECKS], capture_output=True, text=True, check=True, timeout=60)
        return words.stdout.split()


@pytest.fixture(scope="session")
def search_environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """app-search, installed without a network: Debian's setuptools and wheel build it."""
    environment = Environment(str(tmp_path_factory.mktemp("venv-search")))
    environment.install("app-search", "--no-index", "--no-build-isolation")
    return environment


@pytest.fixture(scope="session")
def crawl_environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """app-crawl, with requests and warcio from the package index."""
    environment = Environment(str(tmp_path_factory.mktemp("venv-crawl")))
    environment.install("app-crawl")
    sys.path.append(environment.packages())  # to read with warcio what was written
    return environment


@pytest.fixture(scope="session")
def search_lab(search_environment: Environment) -> Iterator[Lab]:
    """Two nodes that search."""
    lab = Lab(search_environment.python, 2)
    yield from lab.serve()


@pytest.fixture(scope="session")
def crawl_lab(crawl_environment: Environment) -> Iterator[Lab]:
    """Three nodes that crawl, each with its owner's leave."""
    lab = Lab(crawl_environment.python, 3, "allow_network = yes")
    yield from lab.serve()
