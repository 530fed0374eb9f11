"""The wheelhouse: what it collects, that it is complete on the machine it is for, and that it installs offline.

The scripts find their project beside them, so they are tried on a project of tiny packages, with a folder as the index.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging import tags

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
GLIBC = platform.libc_ver()[1]


sys.path.append(str(ROOT / "requirements"))
house_maker = importlib.import_module("wheelhouse")  # a script: it finds its parts beside itself


def test_what_install_sh_installs_is_what_is_collected() -> None:
    script = (ROOT / "requirements" / "install.sh").read_text(encoding="utf-8")
    assert f"{house_maker.torch_requirement()}\n" in script
    for device in ("cpu", "cuda"):
        assert f"-r requirements/{device}.txt" in script
    lock = [line for line in house_maker.CPU_LOCK.read_text(encoding="utf-8").splitlines() if line[0] != "#"]
    assert len(lock) > 150
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+(; python_version > '3.11')?", line) for line in lock)
    assert "vllm==0.32.0" in house_maker.CUDA_LOCK.read_text(encoding="utf-8").splitlines()


def test_the_platforms_are_those_of_pip_on_a_machine_with_that_glibc() -> None:
    assert sorted(house_maker.Target(PYTHON, GLIBC).platforms()) == sorted(set(tags.platform_tags()))


@pytest.mark.parametrize(
    ("wheel", "runs"),
    [
        ("x-1-cp312-cp312-manylinux_2_28_x86_64.whl", True),
        ("x-1-cp39-abi3-manylinux2014_x86_64.whl", True),
        ("x-1-py3-none-any.whl", True),
        ("x-1-cp311-cp311-manylinux_2_28_x86_64.whl", False),
        ("x-1-cp312-cp312-manylinux_2_36_x86_64.whl", False),
        ("x-1-cp312-cp312-musllinux_1_2_x86_64.whl", False),
    ],
)
def test_a_wheel_for_another_python_or_a_newer_glibc_does_not_count(wheel: str, runs: bool) -> None:
    assert house_maker.Target("3.12", "2.35").runs(wheel) is runs


def test_uv_looks_for_packages_where_pip_does(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {":env:.find-links": "c", ":env:.no-index": "1", "download.find-links": "a b", "freeze.timeout": "3"}
    settings |= {"global.extra-index-url": "https://two.example\nhttps://three.example"}
    listed = SimpleNamespace(stdout="".join(f"{name}={value!r}\n" for name, value in settings.items()))
    monkeypatch.setattr(house_maker.subprocess, "run", lambda *_, **__: listed)
    assert house_maker.index_options("https://torch.example") == [
        "--no-index",
        *("--index", "https://two.example", "--index", "https://three.example", "--index", "https://torch.example"),
        *("--find-links", "c"),
    ]


# -- a whole house of tiny packages ----------------------------------------------------------------------------


def write_wheel(folder: Path, name: str, version: str, *requires: str, script: bool = False) -> Path:
    """Write a wheel that holds one module, which prints its version."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"def main():\n    print('{name} {version}')\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + "".join(f"Requires-Dist: {line}\n" for line in requires),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if script:
        files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{name} = {name}:main\n"
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text.encode())}\n"
    target = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for path, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(path, text)
    return target


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project like this one in small: lock files, a package called judge, and a folder as the index."""
    root = tmp_path_factory.mktemp("project")
    index = root / "index"
    for folder in (index, root / "requirements", root / "backend"):
        folder.mkdir()
    for name in ("wheelhouse.py", "wheelhouse_install.py"):
        shutil.copy(ROOT / "requirements" / name, root / "requirements")
    for version in ("80.0", "84.0"):
        write_wheel(index, "tools", version)
    write_wheel(index, "torch", "2.13.0", "tools")
    write_wheel(index, "torch", "2.13.0+cpu", "tools")
    write_wheel(index, "engine", "1.0", "torch==2.13.0", 'tools<81; python_version > "3.11"', "shared==1.0")
    write_wheel(index, "engine", "2.0", "nothing-that-exists")
    for version in ("1.0", "2.0"):
        write_wheel(index, "shared", version)
    write_wheel(index, "reader", "3.0", 'helper; python_version > "3.11"')
    write_wheel(index, "helper", "1.5")
    (root / "requirements" / "cuda.txt").write_text("# a comment\nengine==1.0 # another\n", encoding="utf-8")
    (root / "requirements" / "cpu.txt").write_text("engine==1.0\nshared==2.0\nreader==3.0\n", encoding="utf-8")
    (root / "requirements" / "install.sh").write_text('"${pip[@]}" torch==2.13.0\n', encoding="utf-8")
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "make"\nbackend-path = ["backend"]\n\n'
        '[project]\nname = "judge"\nversion = "0.1"\ndependencies = ["reader>=2"]\n',
        encoding="utf-8",
    )
    built = write_wheel(root / "backend", "judge", "0.1", "reader>=2", script=True)
    (root / "backend" / "make.py").write_text(
        "import shutil\ndef build_wheel(folder, *_):\n"
        f"    shutil.copy({str(built)!r}, folder)\n    return {built.name!r}\n",
        encoding="utf-8",
    )
    return root


def run(project: Path, *command: str | Path) -> tuple[int, str]:
    """Run a Python program that finds packages in the project's index only; return its status and what it says."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(project / "index"), "PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(
        [sys.executable, *command], env={**kept, **offline}, capture_output=True, text=True, check=False, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


def collect(project: Path, house: Path, device: str, python: str) -> str:
    status, said = run(
        project, project / "requirements" / "wheelhouse.py", device, "-o", house, "--python", python, "--glibc", GLIBC
    )
    assert status == 0, said
    return said


def versions(listed: Path) -> list[str]:
    return [line.split(" ")[0] for line in listed.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def house(project: Path) -> Path:
    """A house for this Python."""
    collect(project, project / "house", "cuda", PYTHON)
    return project / "house"


def test_a_house_for_another_python_has_what_that_python_needs(project: Path, tmp_path: Path) -> None:
    """pip alone, run on 3.11 with --python-version 3.12, takes tools 84.0 and leaves helper out, without a word."""
    collect(project, tmp_path / "house", "cuda", "3.12")
    expected = ["engine==1.0", "helper==1.5", "judge==0.1", "reader==3.0", "shared==1.0", "tools==80.0"]
    assert versions(tmp_path / "house" / "requirements.txt") == [*expected, "torch==2.13.0+cpu"]
    assert versions(tmp_path / "house" / "core.txt") == ["helper==1.5", "judge==0.1", "reader==3.0"]


def test_the_cpu_lock_has_the_last_word(project: Path, tmp_path: Path) -> None:
    """The lock is installed without dependencies: engine's wish for another `shared` does not count."""
    collect(project, tmp_path / "house", "cpu", "3.11")
    expected = ["engine==1.0", "judge==0.1", "reader==3.0", "shared==2.0", "tools==84.0", "torch==2.13.0+cpu"]
    assert versions(tmp_path / "house" / "requirements.txt") == expected


def test_a_finished_house_lists_exactly_its_wheels(house: Path) -> None:
    names = sorted(path.name for path in house.iterdir())
    wheels = [name for name in names if name.endswith(".whl")]
    assert {*names} - {*wheels} == set(house_maker.LISTS)
    check = ["/usr/bin/env", "sha256sum", "-c", "SHA256SUMS"]
    checked = subprocess.run(check, cwd=house, capture_output=True, text=True, check=True)
    assert checked.stdout.splitlines() == [f"{name}: OK" for name in wheels]
    about = json.loads((house / "wheelhouse.json").read_text(encoding="utf-8"))
    size = sum((house / name).stat().st_size for name in wheels)
    assert about == {"device": "cuda", "python": PYTHON, "glibc": GLIBC, "wheels": len(wheels), "bytes": size}


def test_a_house_is_completed_mended_and_cleared_of_old_wheels(project: Path, tmp_path: Path) -> None:
    house = tmp_path / "house"
    assert "0 of them here already" in collect(project, house, "cpu", "3.11")
    before = {path.name: path.read_bytes() for path in house.iterdir()}
    (house / "torch-2.13.0+cpu-py3-none-any.whl").write_bytes(b"half")
    (house / "reader-3.0-py3-none-any.whl").unlink()
    (house / "reader-2.0-py3-none-any.whl").write_bytes(b"of an older lock")
    (house / "wheelhouse.json").unlink()  # as a run leaves it that is interrupted
    (house / "parts").mkdir()
    assert "5 wheels, 3 of them here already" in collect(project, house, "cpu", "3.11")
    assert {path.name: path.read_bytes() for path in house.iterdir()} == before


def test_a_folder_with_other_files_is_left_alone(project: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x", encoding="utf-8")
    status, said = run(project, project / "requirements" / "wheelhouse.py", "core", "-o", tmp_path)
    assert status == 2
    assert said == f"wheelhouse: {tmp_path}: holds other files (thesis.tex); choose an empty folder\n"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("option", [("--python", "3"), ("--python", "cp312"), ("--glibc", "35")])
def test_a_mistaken_version_is_one_line(project: Path, tmp_path: Path, option: tuple[str, str]) -> None:
    status, said = run(project, project / "requirements" / "wheelhouse.py", "core", "-o", tmp_path / "house", *option)
    assert (status, said) == (2, "wheelhouse: --python is a version like 3.12, --glibc one like 2.35\n")


# -- installing ------------------------------------------------------------------------------------------------


def nothing(tmp_path: Path) -> Path:
    """An index without any package."""
    (tmp_path / "nothing" / "index").mkdir(parents=True)
    return tmp_path / "nothing"


def test_a_house_installs_without_an_index(house: Path, tmp_path: Path) -> None:
    status, said = run(nothing(tmp_path), house / "install.py", "--into", tmp_path / "env")
    count = len(versions(house / "requirements.txt"))
    assert (status, said) == (0, f"installed {count} packages into {tmp_path / 'env'}\n")
    judge = [tmp_path / "env" / "bin" / "judge"]
    done = subprocess.run(judge, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True)
    assert done.stdout == "judge 0.1\n"
    status, said = run(tmp_path / "nothing", house / "install.py", "--into", tmp_path / "env")
    assert (status, said) == (0, f"judge is installed in {tmp_path / 'env'} already\n")


def test_renamed_wheels_are_found_by_sum_and_the_core_needs_no_engine(house: Path, tmp_path: Path) -> None:
    shutil.copytree(house, tmp_path / "house")
    (tmp_path / "house" / "reader-3.0-py3-none-any.whl").rename(tmp_path / "house" / "reader_3.0.zip")
    (tmp_path / "house" / "engine-1.0-py3-none-any.whl").unlink()
    env = tmp_path / "env"
    status, said = run(nothing(tmp_path), tmp_path / "house" / "install.py", "--into", env, "--core")
    assert status == 0, said
    packages = env / "lib" / f"python{PYTHON}" / "site-packages"
    assert (packages / "reader.py").exists()
    assert not (packages / "torch.py").exists()
    status, said = run(tmp_path / "nothing", tmp_path / "house" / "install.py", "--into", env)
    assert (status, said) == (
        2,
        f"install: {tmp_path / 'house'}: 1 wheels are missing, for example engine-1.0-py3-none-any.whl; "
        "copy the folder again\n",
    )


def test_a_folder_with_other_files_is_not_made_an_environment(house: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x", encoding="utf-8")
    status, said = run(tmp_path, house / "install.py", "--into", tmp_path)
    assert status == 2
    assert said == f"install: {tmp_path}: holds other files; choose a folder that is empty or not there yet\n"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_wheel_with_another_content_is_refused(house: Path, tmp_path: Path) -> None:
    shutil.copytree(house, tmp_path / "house")
    write_wheel(tmp_path / "house", "reader", "3.0", "something-else")
    status, said = run(nothing(tmp_path), tmp_path / "house" / "install.py", "--into", tmp_path / "env", "--core")
    assert status == 2
    assert "DO NOT MATCH THE HASHES" in said
    assert said.endswith(f"install: {tmp_path / 'env'}: pip could not install (see above)\n")
    assert not (tmp_path / "env" / ".judge-ready").exists()


def test_a_house_for_another_machine_or_unfinished_is_refused(house: Path, tmp_path: Path) -> None:
    shutil.copytree(house, tmp_path / "house")
    file = tmp_path / "house" / "wheelhouse.json"
    about = json.loads(file.read_text(encoding="utf-8"))
    for key, value, words in (
        ("python", "3.99", f"its wheels are for Python 3.99, this is {PYTHON}; make one with: make wheelhouse"),
        ("glibc", "2.99", f"its wheels are for glibc 2.99, this machine has {GLIBC}; make one with: make wheelhouse"),
    ):
        file.write_text(json.dumps({**about, key: value}), encoding="utf-8")
        status, said = run(tmp_path, tmp_path / "house" / "install.py", "--into", tmp_path / "env")
        assert status == 2
        assert said.startswith(f"install: {tmp_path / 'house'}: {words}")
    file.unlink()
    status, said = run(tmp_path, tmp_path / "house" / "install.py", "--into", tmp_path / "env")
    assert (status, len(said.splitlines())) == (2, 1)
    assert "it is not a finished wheelhouse" in said
    assert not (tmp_path / "env").exists()
