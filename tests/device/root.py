"""An aarch64 userland with its own sshd: the nearest to a board that a desk has.

A Debian root folder made by debootstrap, run through qemu-user by binfmt_misc, with Python and the aarch64 wheel of
ONNX Runtime. It needs root and a few of Debian's packages; what is missing is said.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.bench import sshd

SUITE: Final = "bookworm"
PYTHON: Final = "3.11"  # of that suite
PACKAGES: Final = ("openssh-server", "python3-minimal", "libpython3-stdlib", "procps")
WHEELS: Final = ("onnxruntime<1.24", "numpy<3")
BINFMT: Final = Path("/proc/sys/fs/binfmt_misc")
HANDLER: Final = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
MIRROR: Final = "http://deb.debian.org/debian"
USER: Final = "board"
# Goes up when what is in the folder changes.
VERSION: Final = 1


class MissingError(Exception):
    """This machine cannot run it, and why."""


def cache() -> Path:
    """Where the folder is kept between runs."""
    given = os.environ.get("EDGEKD_CACHE")
    return (Path(given) if given else Path.home() / ".cache" / "edgekd") / "device-root"


def require() -> None:
    """Raise where something is missing, with all of it.

    Raises:
        MissingError: it is.
    """
    wrong = []
    if os.geteuid() != 0:
        wrong.append("root")
    programs = {"debootstrap": "debootstrap", "qemu-aarch64-static": "qemu-user-static"}
    for program, package in (
        programs | {"sshd": "openssh-server", "ssh": "openssh-client"}
    ).items():
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            wrong.append(f"{program} (apt install {package})")
    if wrong:
        raise MissingError(f"needs {', '.join(wrong)}")


def built() -> Path:
    """The root folder, made when it is not there.

    Raises:
        MissingError: it cannot be made here.
    """
    require()
    _register()
    root = cache() / f"{SUITE}-arm64-{VERSION}"
    if (root / ".complete").exists():
        return root
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    mirror = os.environ.get("EDGEKD_DEBIAN_MIRROR", MIRROR)
    command = [
        "debootstrap",
        "--arch=arm64",
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
    ]
    _run(
        [*command, SUITE, str(root), mirror], "debootstrap failed: are Debian's packages in reach?"
    )
    _install_wheels(root)
    _run(["chroot", str(root), "useradd", "-m", USER], "useradd failed")
    (root / ".complete").touch()
    return root


def _register() -> None:
    """Let the kernel start aarch64 programs by qemu."""
    if not (BINFMT / "register").exists():
        _run(["mount", "-t", "binfmt_misc", "none", str(BINFMT)], "binfmt_misc cannot be mounted")
    if (BINFMT / "qemu-aarch64").exists():
        return
    if not HANDLER.exists():
        raise MissingError(f"needs {HANDLER} (apt install qemu-user-static)")
    line = next(each for each in HANDLER.read_text().splitlines() if each.startswith(":"))
    try:
        (BINFMT / "register").write_text(line)
    except OSError as error:
        raise MissingError(f"binfmt_misc does not take a handler: {error.strerror}") from error


def _install_wheels(root: Path) -> None:
    wheels = root / "tmp" / "wheels"
    tags = [
        word for n in ("2_28", "2_27", "2_17") for word in ("--platform", f"manylinux_{n}_aarch64")
    ]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
    ]
    command += [
        "--python-version",
        PYTHON,
        "--implementation",
        "cp",
        *tags,
        "-d",
        str(wheels),
        *WHEELS,
    ]
    _run(command, "the aarch64 wheels cannot be had: is a package index in reach?")
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(root / "usr" / "lib" / "python3" / "dist-packages")
    shutil.rmtree(wheels)


def _run(command: list[str], why: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise MissingError(f"{why} ({' / '.join(said)})")


@contextlib.contextmanager
def serving(root: Path, folder: Path) -> Iterator[sshd.Server]:
    """The root folder's own sshd on a loopback port; what was mounted and started is gone at the end.

    Args:
        root: as `built` made it.
        folder: empty, for keys and logs.
    """
    with contextlib.ExitStack() as stack:
        for name, options in (
            ("proc", ("-t", "proc", "proc")),
            ("sys", ("--bind", "/sys")),
            ("dev", ("--bind", "/dev")),
        ):
            _run(["mount", *options, str(root / name)], f"{name} cannot be mounted")
            stack.callback(_unmount, root / name)
        home = root / "home" / USER
        shutil.rmtree(home / ".cache", ignore_errors=True)
        for name in ("host", "client"):
            keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(keygen, check=True)
        shutil.copy(folder / "host", root / "etc" / "ssh" / "edgekd_host")
        (root / "etc" / "ssh" / "edgekd_host").chmod(0o600)
        (home / ".ssh").mkdir(mode=0o700, exist_ok=True)
        shutil.copy(folder / "client.pub", home / ".ssh" / "authorized_keys")
        _run(
            ["chroot", str(root), "chown", "-R", f"{USER}:{USER}", f"/home/{USER}"], "chown failed"
        )
        (root / "run" / "sshd").mkdir(parents=True, exist_ok=True)
        port = sshd.free_port()
        key = " ".join((folder / "host.pub").read_text().split()[:2])
        (folder / "known").write_text(f"[127.0.0.1]:{port} {key}\n")
        sshd.write_config(folder, port, user=USER)
        command = ["chroot", str(root), "/usr/sbin/sshd", "-D", "-e", "-p", str(port)]
        command += ["-o", "ListenAddress=127.0.0.1", "-o", "HostKey=/etc/ssh/edgekd_host"]
        with (folder / "sshd.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        server = sshd.Server(folder, port, process)
        stack.callback(_stop, root, server)
        sshd.wait_for(port, process, folder / "sshd.log", seconds=60)
        yield server


def agent_home(root: Path) -> Path:
    """The agent's folder there, seen from here."""
    return root / "home" / USER / ".cache" / "edgekd"


def processes(root: Path) -> list[int]:
    """All that runs inside of the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "root").readlink() == root:
                    found.append(int(entry.name))
    return found


def _stop(root: Path, server: sshd.Server) -> None:
    for number in processes(root):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, 9)
    server.process.wait(20)


def _unmount(path: Path) -> None:
    subprocess.run(["umount", "-l", str(path)], check=False)
