"""Write pinned packages with the hashes of their files, from what pip reports of them.

Hashes are those of the tested platform: Linux on x86-64 with Python 3.11. Several reports of the same versions are
joined, so that torch from either of its indexes is taken::

    pip install --dry-run --ignore-installed --no-deps --report report.json -r constraints.txt
    python tests/make_hashes.py report.json > constraints-hashed.txt
"""

import json
import sys
from pathlib import Path

HEAD = "# {what}, with the hashes of their files (Linux on x86-64, Python 3.11); by tests/make_hashes.py."


def hashed_lines(*reports):
    """Return a line per package of pip's reports: its version, and the SHA-256 of its file in each of them."""
    found = {}
    for report in reports:
        for package in report["install"]:
            name = package["metadata"]["name"].lower().replace("_", "-")
            version = package["metadata"]["version"].partition("+")[0]  # a build of the same release
            digest = package["download_info"]["archive_info"]["hashes"]["sha256"]
            found.setdefault((name, version), set()).add(digest)
    names = [name for name, _ in found]
    if len(names) != len(set(names)):
        raise SystemExit("the reports are of several versions of one package")
    return [
        f"{name}=={version} " + " ".join(f"--hash=sha256:{digest}" for digest in sorted(digests))
        for (name, version), digests in sorted(found.items())
    ]


if __name__ == "__main__":
    print(HEAD.format(what="The packages of these versions"))
    print("\n".join(hashed_lines(*(json.loads(Path(path).read_text(encoding="utf-8")) for path in sys.argv[1:]))))
