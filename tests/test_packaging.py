"""What pyproject.toml says is what there is."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {"fitb_callbacks": ROOT / "fitb_callbacks", "fitb_callbacks.integrations": ROOT / "integrations"}


def test_the_packages_listed_are_the_folders_that_hold_python():
    """A folder that the list forgets works in the checkout and is missing from the wheel."""
    found = {
        ".".join([package, *file.parent.relative_to(folder).parts])
        for package, folder in FOLDERS.items()
        for file in folder.rglob("*.py")
    }
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(found)
    for package in listed:  # a package, not only a folder
        nearest = max((name for name in FOLDERS if f"{package}.".startswith(f"{name}.")), key=len)
        folder = FOLDERS[nearest].joinpath(*package.removeprefix(nearest).split("."))
        assert (folder / "__init__.py").is_file(), package


def test_no_requirement_is_written_twice():
    extras = PROJECT["project"]["optional-dependencies"]
    written = [requirement for requirements in extras.values() for requirement in requirements]
    written = [requirement for requirement in written if not requirement.startswith("fitb-callbacks[")]
    assert len(written) == len(set(written)), sorted(written)


@pytest.mark.parametrize("extra", PROJECT["project"]["optional-dependencies"])
def test_extras_name_extras_that_exist(extra):
    extras = PROJECT["project"]["optional-dependencies"]
    for requirement in extras[extra]:
        if requirement.startswith("fitb-callbacks["):
            named = requirement.removeprefix("fitb-callbacks[").removesuffix("]").split(",")
            assert set(named) <= set(extras)


def test_python_started_in_the_checkout_finds_what_is_installed_beside_it(tmp_path):
    """As after `pip install .`, when the first package on the path is the checkout's, without its integrations."""
    (tmp_path / "fitb_callbacks").mkdir()
    (tmp_path / "fitb_callbacks" / "__init__.py").touch()
    (tmp_path / "fitb_callbacks" / "integrations").symlink_to(ROOT / "integrations")
    program = "\n".join([
        "import sys",
        "sys.meta_path = [each for each in sys.meta_path if 'Editable' not in getattr(each, '__name__', '')]",
        f"sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]",
        "import fitb_callbacks, fitb_callbacks.integrations as found",
        "print(fitb_callbacks.__file__, found.__file__)",
    ])  # fmt: skip
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        str(ROOT / "fitb_callbacks" / "__init__.py"),
        str(tmp_path / "fitb_callbacks" / "integrations" / "__init__.py"),
    ]
