"""The CI recipes of the documents, run as they stand: their scripts in clones of a repository, as the services would.

What only a service has stands in for itself here: its expressions are replaced, a cache is a folder that the next job
gets, and a push goes to a bare repository beside the clones.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
KEPT = (".odegrad",)
"""What the recipes' caches hold and a next job gets."""
SPOILT = (
    "methods/gradients/naive.py",
    "            return integrate_with_graph(",
    "            field(times[0], y0)\n            return integrate_with_graph(",
)
"""A change that the exact gate must find: one more f call."""


def _recipe(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    return yaml.safe_load(block)


def _git(folder, *words):
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


@dataclass
class Service:
    """A bare repository with branches main, fine and spoilt, and an environment that has nothing but pip."""

    folder: Path
    kept: Path = field(init=False)
    jobs: int = 0

    def __post_init__(self):
        self.kept = self.folder / "kept"
        self.bare = self.folder / "origin.git"
        self.work = work = self.folder / "work"
        _git(self.folder, "clone", "-q", str(ROOT), str(work))
        _git(work, "checkout", "-q", "-B", "main")
        self.name = ("-c", "user.name=Reader", "-c", "user.email=reader@example.org")
        for branch, (path, old, new) in {"fine": ("README.md", "# ", "#  "), "spoilt": SPOILT}.items():
            _git(work, "checkout", "-q", "-B", branch, "main")
            text = (work / path).read_text(encoding="utf-8")
            assert old in text
            (work / path).write_text(text.replace(old, new, 1), encoding="utf-8")
            _git(work, *self.name, "commit", "-qam", f"change {path}")
        _git(self.folder, "clone", "-q", "--bare", str(work), str(self.bare))
        subprocess.run([sys.executable, "-m", "venv", str(self.folder / "venv")], check=True)

    def push(self):
        """Put another commit on main."""
        _git(self.work, "checkout", "-q", "main")
        _git(self.work, *self.name, "commit", "-q", "--allow-empty", "-m", "go on")
        _git(self.work, "push", "-q", str(self.bare), "main")

    def checkout(self, branch):
        """Return a new clone of that branch with what the caches kept."""
        self.jobs += 1
        clone = self.folder / f"job-{self.jobs}"
        _git(self.folder, "clone", "-q", "--branch", branch, str(self.bare), str(clone))
        for name in KEPT:
            if (self.kept / name).is_dir():
                shutil.copytree(self.kept / name, clone / name)
        return clone

    def keep(self, clone):
        """Keep what the recipe caches."""
        for name in KEPT:
            if (clone / name).is_dir():
                shutil.copytree(clone / name, self.kept / name, dirs_exist_ok=True)

    def bash(self, clone, script, variables):
        """Run a script as the services do; return its exit code and what it printed."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "GITHUB_", "CI_", "PYTHON", "COV"))}
        env |= {"GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": "user.name", "GIT_CONFIG_VALUE_0": "Reader"}
        env |= {"GIT_CONFIG_KEY_1": "user.email", "GIT_CONFIG_VALUE_1": "reader@example.org"}
        env |= {"PATH": f"{self.folder / 'venv' / 'bin'}:{os.environ['PATH']}", **variables}
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script],
            cwd=clone, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        print(f"{done.returncode}  {' '.join(script.split())[:110]}", flush=True)
        return done.returncode, done.stdout

    def history(self):
        """Return the commits of the branch of the history, newest first; none before its first push."""
        words = ["git", "log", "--format=%s", "odegrad-history"]
        done = subprocess.run(words, cwd=self.bare, capture_output=True, text=True, check=False)
        return done.stdout.splitlines()


@pytest.fixture
def service(tmp_path):
    """Return a service with an empty cache and history."""
    return Service(tmp_path)


def _holds(condition, event):
    """Return whether a step's ``if`` holds; its words are few."""
    words = {"github.event_name": repr(event), "!cancelled()": "True", "always()": "True", "&&": "and"}
    for old, new in words.items():
        condition = condition.replace(old, new)
    assert re.fullmatch(r"[\w' =]+", condition), condition
    return eval(condition)


def _github(service, branch, event):
    """Run the recipe's jobs on an event; return step name or script -> (exit code, output), and the last clone."""
    found = {}
    for job in _recipe("ci-github.md")["jobs"].values():
        if not _holds(job.get("if", "always()"), event):
            continue
        clone = service.checkout(branch)
        steps, summary = clone.parent / f"{clone.name}.env", clone.parent / f"{clone.name}.md"
        steps.touch()
        variables = {
            key: str(value).replace("${{ github.workspace }}", str(clone)) for key, value in job.get("env", {}).items()
        }
        variables |= {"GITHUB_ENV": str(steps), "GITHUB_STEP_SUMMARY": str(summary), "GITHUB_BASE_REF": "main"}
        variables |= {"GITHUB_SHA": "0123abc", "GITHUB_ACTIONS": "true", "CI": "true"}
        failed = False
        for step in job["steps"]:
            anyway = "cancelled()" in step.get("if", "") or "always()" in step.get("if", "")
            if "run" not in step or (failed and not anyway) or not _holds(step.get("if", "always()"), event):
                continue
            variables |= dict(line.partition("=")[::2] for line in steps.read_text().splitlines())
            code, output = service.bash(clone, step["run"], variables)
            found[step.get("name", step["run"].split(" -")[0])] = code, output
            failed |= code != 0
        service.keep(clone)
        if summary.exists():
            found["summary"] = 0, summary.read_text(encoding="utf-8")
        if failed:
            break
    return found, clone


@pytest.mark.minutes
@pytest.mark.timeout(0)
def test_github_recipe(service):
    """Two pushes to main keep a baseline and a history; a harmless pull request passes, one more f call is found."""
    for number in (1, 2):
        service.push()
        found, clone = _github(service, "main", "push")
        assert {name: code for name, (code, _) in found.items() if code} == {}, found
        assert "gate: fine" in found["exact gate"][1]
        assert list((clone / "trend").glob("*.html"))
        assert len(service.history()) == number
    assert (service.kept / ".odegrad" / "gate.json").is_file()

    found, clone = _github(service, "fine", "pull_request")
    assert {name: code for name, (code, _) in found.items() if code} == {}, found
    assert ": passed at 0123abc" in found["exact gate"][1]  # the baseline that the push kept
    assert (clone / "times.xml").is_file()
    assert (clone / "benchmarks.json").is_file()
    assert "gate" in found["summary"][1]

    found, _ = _github(service, "spoilt", "pull_request")
    timed = "times against the target branch"  # may find the call, too
    assert {name for name, (code, _) in found.items() if code} - {timed} == {"exact gate"}, found
    assert found["exact gate"][0] == 1
    assert re.search(r"::error .*regressed: nfe_forward", found["exact gate"][1])
    assert {timed, "benchmarks"} <= found.keys()


def _gitlab(service, branch, source):
    """Run the recipe's jobs in a pipeline of that source; return job -> (exit code, output, clone)."""
    recipe = _recipe("ci-gitlab.md")
    base, found = recipe.pop(".odegrad"), {}
    default = "main"
    base_sha = subprocess.run(
        ["git", "rev-parse", default], cwd=service.bare, capture_output=True, text=True, check=True
    ).stdout.strip()
    predefined = {
        "CI": "true", "CI_PIPELINE_SOURCE": source, "CI_DEFAULT_BRANCH": default, "CI_COMMIT_SHA": "0123abc",
        "CI_COMMIT_BRANCH": branch if source == "push" else "", "CI_MERGE_REQUEST_DIFF_BASE_SHA": base_sha,
        "HISTORY_TOKEN": "secret", "CI_SERVER_HOST": "gitlab.example.org", "CI_PROJECT_PATH": "group/project",
    }  # fmt: skip
    pushed = "https://history:secret@gitlab.example.org/group/project.git"
    for name, own in recipe.items():
        job = {**base, **own}
        rules = [rule["if"] for rule in job["rules"]]
        if not any(_rule(rule, predefined) for rule in rules) or any(found[need][0] for need in job.get("needs", [])):
            continue
        clone = service.checkout(branch)
        _git(clone, "config", f"url.{service.bare}.insteadOf", pushed)
        predefined["CI_PROJECT_DIR"] = str(clone)
        variables = {
            k: re.sub(r"\$(\w+)", lambda m: predefined.get(m[1], ""), str(v)) for k, v in job["variables"].items()
        }
        script = "\n".join([*job["before_script"], *job["script"]])
        code, output = service.bash(clone, script, {**predefined, **variables})
        service.keep(clone)
        found[name] = code, output, clone
    return found


def _rule(rule, variables):
    """Return whether a rule's condition, an equality of variables and texts, holds."""
    left, right = (part.strip() for part in rule.split("=="))
    return len({variables[word[1:]] if word.startswith("$") else word.strip('"') for word in (left, right)}) == 1


@pytest.mark.minutes
@pytest.mark.timeout(0)
def test_gitlab_recipe(service):
    """As on GitHub: a push keeps baseline and history, a harmless merge request passes, one more f call is found."""
    service.push()
    found = _gitlab(service, "main", "push")
    assert {name: code for name, (code, *_) in found.items()} == {"gate": 0, "benchmarks": 0, "history": 0}, found
    assert len(service.history()) == 1
    assert list((found["history"][2] / "trend").glob("*.html"))
    assert list((service.kept / ".odegrad").glob("*.json"))

    found = _gitlab(service, "fine", "merge_request_event")
    assert {name: code for name, (code, *_) in found.items()} == {"gate": 0, "times": 0, "benchmarks": 0}, found
    assert ": passed at 0123abc" in found["gate"][1]

    found = _gitlab(service, "spoilt", "merge_request_event")
    assert (found["gate"][0], found["benchmarks"][0]) == (1, 0), found
    assert "regressed" in found["gate"][1]
