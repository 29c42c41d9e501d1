"""The build: pure Python where wanted or no compiler can, one sentence without torch."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from jacfast.ops import lives
from tests.forked import ROOT, completed

USE = """
import torch, jacfast
from jacfast import doctor
assert not jacfast.__file__.startswith({root!r}), jacfast.__file__
torch.manual_seed(0)
model, x = torch.nn.Linear(6, 3), torch.rand(4, 6, requires_grad=True)
penalty = jacfast.frobenius_penalty(model(x), x, n="exact")
torch.testing.assert_close(penalty, model.weight.square().sum())
penalty.backward()
assert jacfast.deepfool(model, x.detach()).success.all()
print(doctor.report())
"""


@pytest.fixture
def source(tmp_path) -> Path:
    """A copy of what is built from, without anything built."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    for name in ("jacfast", "csrc"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    return folder


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def script(path: Path, lines: str, cxx: str = "c++") -> str:
    """Write a compiler: these lines, then the one of this machine."""
    if not shutil.which(cxx):
        pytest.skip(f"{cxx} is not installed")
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/bash\nPATH={os.environ["PATH"]}\n{lines}\nexec {cxx} "$@"\n')
    path.chmod(0o755)
    return str(path)


def compiler_without(flag: str, folder: Path, cxx: str = "c++") -> str:
    lines = f"""for flag; do
  if [ "$flag" = {flag} ]; then echo "unknown: $flag" >&2; exit 1; fi
done"""
    return script(folder / "compiler", lines, cxx)


def wheel(source: Path, **environment: str) -> tuple[subprocess.CompletedProcess, Path]:
    command = ("-m", "pip", "wheel", "-v", "--no-build-isolation", "--no-deps", "-w", "wheels", ".")
    built = run(source, *command, **environment)
    assert built.returncode == 0, built.stderr
    (file,) = (source / "wheels").iterdir()
    return built, file


def use(file: Path, folder: Path) -> str:
    """Run USE with what is in the wheel, and return what it printed."""
    site = folder / "site"
    zipfile.ZipFile(file).extractall(site)
    # Without site (-S) no editable install of this tree can lend its extension.
    path = os.pathsep.join([str(site), *(p for p in sys.path if p.endswith("-packages"))])
    used = run(folder, "-S", "-c", USE.format(root=str(ROOT)), PYTHONPATH=path)
    assert used.returncode == 0, used.stderr
    return used.stdout


def test_pure_python(source, tmp_path):
    built, file = wheel(source, JACFAST_BUILD="0")
    assert "installing pure Python" not in built.stdout + built.stderr, "it was asked for"
    assert file.name.endswith("py3-none-any.whl")
    said = use(file, tmp_path)
    assert not list((tmp_path / "site").rglob("*.so"))
    assert "extension not built" in said
    assert said.count("on cpu: reference") == len(lives.NAMES)


@pytest.mark.skipif(not os.environ.get("CI"), reason="compiles for half a minute: CI=1 asks for it")
def test_clang_without_openmp(source, tmp_path):
    compiler = compiler_without("-fopenmp", tmp_path, "clang++")
    built, file = wheel(source, CXX=compiler, MAX_JOBS="1")
    assert "has no OpenMP: the CPU ops will use one thread" in built.stdout + built.stderr
    assert not re.search(r"csrc/.*warning:", built.stdout + built.stderr)
    said = use(file, tmp_path)
    assert re.search("compiler .*Clang.* without OpenMP: on the CPU the ops use one thread", said)
    assert said.count("on cpu: cpu ") == len(lives.NAMES)


# What setup() is told, without building anything.
FLAGS = """
import setuptools
def setup(ext_modules=(), cmdclass=None):
    for module in ext_modules:
        print(*module.extra_compile_args["cxx"], "|", *module.extra_link_args)
setuptools.setup = setup
exec(open("setup.py").read())
"""


def _set_up(source: Path, code: str) -> None:
    os.chdir(source)
    exec(code, {})


def set_up(source: Path, code: str = FLAGS, **environment: str) -> subprocess.CompletedProcess:
    return completed(_set_up, source, code, **environment)


def flags(said: str) -> list[list[list[str]]]:
    """Of each library, what it is compiled with and what it is linked with."""
    return [[words.split() for words in line.split("|")] for line in said.splitlines()]


def test_without_cpp20_pure_python(source, tmp_path):
    built = set_up(source, CXX=compiler_without("-std=c++20", tmp_path))
    said = "/compiler cannot build csrc/probe/cxx20.cpp: installing pure Python\n"
    assert built.stderr.count("jacfast:") == built.stderr.count(said) == 1
    assert (built.returncode, built.stdout) == (0, "")


@pytest.mark.parametrize("named", ["", "none"])
def test_a_compiler_that_is_not_there_is_none(source, tmp_path, named):
    built = set_up(source, CXX=named and str(tmp_path / named), PATH=str(tmp_path))
    assert built.stderr == "jacfast: no C++ compiler found: installing pure Python\n"
    assert (built.returncode, built.stdout) == (0, "")


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_flags_of_a_compiler_that_has_openmp(source, tmp_path, compiler):
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    (tmp_path / "empty.cpp").write_text("int main() {}")
    command = [compiler, "-fopenmp", "empty.cpp"]
    if subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode:
        pytest.skip(f"{compiler} has no OpenMP here")
    told = set_up(source, CXX=compiler)
    assert "jacfast:" not in told.stderr
    (compiling, linking), _ = flags(told.stdout)
    assert "-fopenmp" in compiling
    assert "-fopenmp" in linking


def test_flags_in_the_environment_are_heard_and_do_not_win(source, tmp_path):
    cxx, old = script(tmp_path / "compiler", ""), "-std=c++11"
    told = set_up(source, CXX=cxx, CFLAGS=old, CXXFLAGS=old, CPPFLAGS="-U_OPENMP")
    assert "has no OpenMP" in told.stderr
    for compiling, linking in flags(told.stdout):
        assert {"-std=c++20", "-fno-fast-math"} < set(compiling)
        assert "-fno-fast-math" in linking


def test_without_openmp_one_sentence_and_one_thread(source, tmp_path):
    built = set_up(source, CXX=compiler_without("-fopenmp", tmp_path))
    said = "/compiler has no OpenMP: the CPU ops will use one thread\n"
    assert built.stderr.count("jacfast:") == built.stderr.count(said) == 1
    assert "-std=c++20" in built.stdout
    assert "omp" not in built.stdout


def test_openmp_that_is_taken_and_means_nothing_is_none(source, tmp_path):
    compiler = script(tmp_path / "ignores", 'set -- "${@//-fopenmp/-Wall}"')
    assert "has no OpenMP" in set_up(source, CXX=compiler).stderr


def test_a_compiler_of_another_name_compiles_and_links(source, tmp_path):
    """Without a c++, which PyTorch would call, and where setuptools would call Python's."""
    script(tmp_path / "bin" / "clang++", "")
    code = FLAGS + "print(os.environ['CXX'])"
    built = set_up(source, code, CXX="", PATH=str(tmp_path / "bin"))
    *told, compiler = built.stdout.splitlines()
    assert told
    assert all("-std=c++20" in line for line in told)
    assert compiler == "clang++"


def test_without_torch_one_sentence_names_the_commands(source):
    (source / "torch.py").write_text("raise ImportError('no torch here')\n")
    failed = run(source, "setup.py", "build_ext", PYTHONPATH=str(source))
    assert failed.returncode != 0
    assert "jacfast: building the extension needs torch in this environment: run" in failed.stderr
    assert "pip install torch setuptools ninja pybind11" in failed.stderr
    assert "pip install --no-build-isolation ." in failed.stderr
    assert "Traceback" not in failed.stderr


def test_the_source_distribution_is_a_clone(tmp_path):
    """All that the README's commands need is inside: make finds every prerequisite."""
    build = "import setuptools.build_meta as b, sys; print(b.build_sdist(sys.argv[1]))"
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if files.returncode:
        pytest.skip("no git repository, which says what belongs to a clone")
    copy = tmp_path / "copy"  # setuptools writes into the folder that it packs
    for name in files.stdout.split("\n")[:-1]:
        if (ROOT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    built = run(copy, "-c", build, str(tmp_path))
    assert built.returncode == 0, built.stderr
    with tarfile.open(tmp_path / built.stdout.split()[-1]) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.glob("jacfast-*/")
    inside = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    wanted = {name for name in files.stdout.split("\n")[:-1] if (ROOT / name).exists()}
    assert wanted - inside == {".ci/run", ".clang-format", ".gitignore"}
    planned = subprocess.run(["make", "-n", "demo", "test"], cwd=folder, capture_output=True)
    assert planned.returncode == 0, planned.stderr
