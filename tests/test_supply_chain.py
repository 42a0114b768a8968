"""What a release is made of: pinned actions, packages with the hashes of their files, a bill of materials."""

import hashlib
import importlib.metadata
import importlib.util
import json
import re
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PINNED = re.compile(r"uses: [\w./-]+@[0-9a-f]{40} # v[\d.]+")
HASHED = re.compile(r"([a-z0-9.-]+)==([\w.]+)((?: --hash=sha256:[0-9a-f]{64})+)")


def script(path):
    """Return a script of the repository as a module."""
    spec = importlib.util.spec_from_file_location("script", ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def hashed(path):
    """Return version by name of a file of pinned packages; every line has a hash."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()[1:]
    found = [HASHED.fullmatch(line) for line in lines]
    assert all(found), [line for line, match in zip(lines, found, strict=True) if match is None]
    return {match[1]: match[2] for match in found}


def test_actions_of_others_are_pinned_to_commits():
    """In our workflows, and in the recipes that are copied from the documents: a tag can be moved."""
    pages = [*(ROOT / ".github" / "workflows").iterdir(), *(ROOT / "docs").glob("*.md")]
    used = [line.strip(" -") for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    used = [line for line in used if line.startswith("uses: ")]
    assert len(used) > 8
    assert [line for line in used if not PINNED.fullmatch(line)] == []


def test_every_constraint_has_hashes():
    """The same versions, a hash of each file that was tested; of torch two, for it lies in two indexes."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    plain = [line.partition(";")[0].strip().split("==") for line in lines if not line.startswith("#")]
    assert hashed("constraints-hashed.txt") == {name.lower().replace("_", "-"): version for name, version in plain}


def test_tools_of_the_release_have_hashes():
    """What builds and publishes is installed by hash, and the build brings nothing else."""
    assert {"build", "twine", "setuptools", "setuptools-scm"} <= hashed(".ci/release-tools.txt").keys()
    release = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    assert re.findall(r"pip install (.*)", release) == ["--require-hashes -r .ci/release-tools.txt"]
    assert "python -m build --no-isolation" in release


def test_hashes_of_reports_are_joined():
    """One line per package; a local build of torch is the release's, with a hash more."""
    lines = script("tests/make_hashes.py").hashed_lines
    one, two, three = ("1" * 64, "2" * 64, "3" * 64)

    def package(name, version, digest):
        hashes = {"archive_info": {"hashes": {"sha256": digest}}}
        return {"metadata": {"name": name, "version": version}, "download_info": hashes}

    first = {"install": [package("torch", "2.0", two), package("A_b", "1.5", one)]}
    second = {"install": [package("torch", "2.0+cpu", three), package("a-b", "1.5", one)]}
    joined = f"torch==2.0 --hash=sha256:{two} --hash=sha256:{three}"
    assert lines(first, second) == [f"a-b==1.5 --hash=sha256:{one}", joined]
    with pytest.raises(SystemExit, match="several versions"):
        lines(first, {"install": [package("torch", "2.1", two)]})


WHEEL = """Metadata-Version: 2.4
Name: thing
Version: 1.2
License-Expression: Apache-2.0
Requires-Dist: numpy>=1.26
Requires-Dist: typing_extensions>=4
Requires-Dist: dask>=2025.1; extra == "cluster"
Requires-Dist: thing[cluster]; extra == "test"
"""
TESTED = {
    "numpy": ("2.0", ["a" * 64]),
    "typing-extensions": ("4.1", ["b" * 64]),
    "dask": ("2026.1", ["c" * 64, "d" * 64]),
}


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "thing-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("thing-1.2.dist-info/METADATA", WHEEL)
    return path


def test_a_bill_names_what_a_wheel_needs(wheel):
    """Itself with its hash, each package with version, hashes and whether it is optional, and who needs whom."""
    bill = script(".ci/bill.py").bill(wheel, TESTED)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    root = bill["metadata"]["component"]
    assert (root["purl"], root["licenses"]) == ("pkg:pypi/thing@1.2", [{"expression": "Apache-2.0"}])
    assert root["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(wheel.read_bytes()).hexdigest()}]
    found = {each["name"]: each for each in bill["components"]}
    assert {name: (each["version"], each["scope"]) for name, each in found.items()} == {
        "numpy": ("2.0", "required"), "typing-extensions": ("4.1", "required"), "dask": ("2026.1", "optional"),
    }  # fmt: skip
    assert [each["hashes"][0]["content"] for each in found["dask"]["externalReferences"]] == ["c" * 64, "d" * 64]
    needs = {"pkg:pypi/dask@2026.1", "pkg:pypi/numpy@2.0", "pkg:pypi/typing-extensions@4.1"}
    assert bill["dependencies"] == [{"ref": "pkg:pypi/thing@1.2", "dependsOn": sorted(needs)}]


def test_a_bill_is_written_and_the_same_again(wheel, tmp_path, capsys):
    """By default beside the wheel; what is not pinned is refused."""
    module = script(".ci/bill.py")
    module.main(wheel, tmp_path / "bill" / "one.json")
    module.main(wheel)
    assert capsys.readouterr().out.endswith(f"thing-1.2.cdx.json: {len(module.pinned())} packages\n")
    one, two = (tmp_path / "bill" / "one.json").read_bytes(), (tmp_path / "thing-1.2.cdx.json").read_bytes()
    assert one == two
    assert len(json.loads(one)["components"]) == len(hashed("constraints-hashed.txt"))
    with pytest.raises(SystemExit, match=r"numpy, dask: needed by thing.*\.whl, and not in constraints-hashed.txt"):
        module.bill(wheel, {"typing-extensions": ("4.1", [])})


def test_our_own_bill_can_be_made():
    """Every requirement of the package is pinned with hashes, those of its extras too."""
    module = script(".ci/bill.py")
    metadata = importlib.metadata.metadata("odegrad")
    always, extras = module.needed(metadata)
    assert "torch" in always
    assert "distributed" in extras
    assert set(always) | set(extras) <= module.pinned().keys()
