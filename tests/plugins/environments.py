"""Python environments with plugins installed by pip: fast, and without a package index.

An environment sees the packages of the one that runs the tests; a plugin's wheel is made here
as a build backend would make it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT, Done

DISTRIBUTIONS = Path(__file__).parent / "dist"


@dataclass(frozen=True)
class Distribution:
    """A plugin of one module, given by its source.

    Attributes:
        name: of the distribution; the module is named after it.
        source: the module's.
        version: of the distribution.
    """

    name: str
    source: str
    version: str = "0.1"

    @property
    def module(self) -> str:
        return self.name.replace("-", "_")

    def build(self, folder: Path) -> Path:
        """Make the wheel (PEP 427); returns its path."""
        info = f"{self.module}-{self.version}.dist-info"
        wheel = folder / f"{self.module}-{self.version}-py3-none-any.whl"
        files = {
            f"{self.module}.py": self.source,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {self.name}\n"
            f"Version: {self.version}\nRequires-Dist: qup\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\n"
            "Root-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/entry_points.txt": f"[qup]\n{self.name[4:]} = {self.module}\n",
        }
        record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, text in {**files, f"{info}/RECORD": record}.items():
                archive.writestr(name, text)
        return wheel


def read_distribution(name: str) -> Distribution:
    """The distribution in ``tests/plugins/dist/<name>``."""
    project = tomllib.loads((DISTRIBUTIONS / name / "pyproject.toml").read_text())["project"]
    module = name.replace("-", "_")
    assert list(project["entry-points"]["qup"].values()) == [module]
    source = (DISTRIBUTIONS / name / f"{module}.py").read_text()
    return Distribution(project["name"], source, project["version"])


@dataclass(frozen=True)
class Environment:
    """A virtual environment with qup and some plugins."""

    python: Path

    @property
    def site(self) -> Path:
        """Its folder of packages."""
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        return self.python.parent.parent / "lib" / version / "site-packages"

    def variables(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT)}

    def qup(self, *words: str | os.PathLike[str], timeout: float = 120.0) -> Done:
        """Run qup in it; see :func:`tests.conftest.run_qup`."""
        argv = tuple(os.fspath(word) for word in words)
        began = time.monotonic()
        done = subprocess.run(
            [self.python, "-m", "qup", *argv],
            env=self.variables(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Done(argv, done.returncode, done.stdout, done.stderr, time.monotonic() - began)


def make_environment(folder: Path, *distributions: Distribution) -> Environment:
    """Make an environment, and let pip install distributions into it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    environment = Environment(folder / "bin" / "python")
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    lines = [f"import site; site.addsitedir({path!r})\n" for path in sorted(here)]
    (environment.site / "_tests.pth").write_text("".join(lines))
    wheels = [distribution.build(folder) for distribution in distributions]
    if wheels:
        pip = [sys.executable, "-m", "pip", "--python", str(environment.python)]
        options = ["--no-index", "--no-deps", "--no-compile", "--quiet"]
        options += ["--disable-pip-version-check", "--root-user-action=ignore"]
        subprocess.run([*pip, "install", *options, *wheels], check=True)
    return environment
