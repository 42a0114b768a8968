"""Write the bill of materials of a wheel (CycloneDX 1.6): what it needs, with the versions and files that were tested.

``python .ci/bill.py WHEEL [OUT]``; by default beside the wheel, ``NAME-VERSION.cdx.json``. The same wheel gives the
same bill.
"""

import email.parser
import hashlib
import json
import re
import sys
import uuid
import zipfile
from pathlib import Path

HASHED = Path(__file__).parent.parent / "constraints-hashed.txt"
NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
"""Of names that are addresses (RFC 9562, 6.6)."""


def purl(name, version):
    """Return the package's address as its index is named in bills (package URL)."""
    return f"pkg:pypi/{name}@{version}"


def pinned(path=HASHED):
    """Return version and hashes of every tested package, by its name."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            requirement, *hashes = line.split()
            name, _, version = requirement.partition("==")
            found[name] = (version, [each.removeprefix("--hash=sha256:") for each in hashes])
    return found


def metadata_of(wheel):
    """Return the metadata of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", each))
        return email.parser.BytesParser().parsebytes(archive.read(name))


def needed(metadata):
    """Return the names that a wheel needs whatever extras are chosen, and those that extras bring, in order."""
    always, extras = set(), set()
    for line in metadata.get_all("Requires-Dist") or ():
        requirement, _, marker = line.partition(";")
        name = re.match(r"[A-Za-z0-9._-]+", requirement.strip())[0].lower().replace("_", "-")
        (extras if "extra" in marker else always).add(name)
    return sorted(always), sorted(extras - always - {metadata["Name"].lower()})


def bill(wheel, tested):
    """Return the bill of ``wheel``; ``tested`` is what ``pinned`` returns."""
    metadata, digest = metadata_of(wheel), hashlib.sha256(Path(wheel).read_bytes()).hexdigest()
    name, version = metadata["Name"], metadata["Version"]
    always, extras = needed(metadata)
    missing = [each for each in (*always, *extras) if each not in tested]
    if missing:
        raise SystemExit(
            f"{', '.join(missing)}: needed by {Path(wheel).name}, and not in constraints-hashed.txt; pin it"
        )
    root = {
        "type": "library", "bom-ref": purl(name, version), "name": name, "version": version,
        "licenses": [{"expression": metadata["License-Expression"]}],
        "hashes": [{"alg": "SHA-256", "content": digest}], "purl": purl(name, version),
    }  # fmt: skip
    components = [
        {
            "type": "library", "bom-ref": purl(each, pin), "name": each, "version": pin, "purl": purl(each, pin),
            "scope": "required" if each in always else "optional",
            "externalReferences": [
                {"type": "distribution", "url": purl(each, pin), "hashes": [{"alg": "SHA-256", "content": content}]}
                for content in hashes
            ],
        }
        for each, (pin, hashes) in sorted(tested.items())
    ]  # fmt: skip
    direct = [purl(each, tested[each][0]) for each in (*always, *extras)]
    return {
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, digest)}",
        "metadata": {"component": root},
        "components": components,
        "dependencies": [{"ref": root["bom-ref"], "dependsOn": sorted(direct)}],
    }  # fmt: skip


def main(wheel, out=None):
    """Write the bill, and say where."""
    found = bill(wheel, pinned())
    component = found["metadata"]["component"]
    path = Path(out or Path(wheel).parent / f"{component['name']}-{component['version']}.cdx.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{path}: {len(found['components'])} packages")


if __name__ == "__main__":
    main(*sys.argv[1:])
