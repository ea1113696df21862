"""Asks whether advisories are known of what is installed; where nobody can be asked it says so, and does not fail."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request

_SERVICE = "https://pypi.org/pypi/pip/json"  # what pip-audit asks, of a package that is there
_SECONDS = 20.0


def main() -> int:
    """0: nothing is known, or nobody could be asked; 1: something is known; 2: pip-audit itself failed."""
    try:
        with urllib.request.urlopen(_SERVICE, timeout=_SECONDS) as answer:
            json.loads(answer.read())
    except (OSError, ValueError, urllib.error.URLError) as error:
        print(f"Nothing was audited: the service of advisories cannot be reached ({error}).")
        return 0
    command = [sys.executable, "-m", "pip_audit", "--local", "--skip-editable", "--progress-spinner", "off"]
    done = subprocess.run([*command, "--format", "json"], capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(f"Nothing was audited: pip-audit ended with status {done.returncode}.\n{done.stderr.strip()[-2000:]}")
        return 2
    known = [(each["name"], each["version"], one) for each in packages for one in each.get("vulns", [])]
    for name, version, one in known:
        print(f"{name} {version}: {one['id']}, fixed in {', '.join(one['fix_versions']) or 'no version'}")
    skipped = [each["name"] for each in packages if "skip_reason" in each]
    if len(skipped) == len(packages):  # what answers is no service of advisories: a mirror, for instance
        print(f"Nothing was audited: all {len(packages)} packages are unknown to whoever answers.")
        return 0
    print(f"{len(packages)} packages, {len(skipped)} of them unknown to the service, {len(known)} advisories.")
    return int(bool(known))


if __name__ == "__main__":
    sys.exit(main())
