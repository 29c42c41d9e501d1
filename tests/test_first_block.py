"""The README's code runs with what the package itself asks for, and no extra."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {extras}:
            raise ModuleNotFoundError(f"{{name}} is an extra", name=name)

sys.meta_path.insert(0, Blocked())
"""
MODULES = {"scikit-learn": "sklearn", "adv-lib": "adv_lib"}
MODULES["adversarial-robustness-toolbox"] = "art"


def test_the_code_of_the_readme_needs_no_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {name for extra in project["optional-dependencies"].values() for name in extra}
    extras = {MODULES.get(name, name) for name in named}
    assert {"matplotlib", "mlxtend", "sklearn"} <= extras
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    done = subprocess.run(
        [sys.executable, "-c", BLOCK.format(extras=sorted(extras)) + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "fooled, %" in done.stdout
