import subprocess

import pytest

from edgekd.bench.transport import ssh_settings


@pytest.fixture
def ssh(tmp_path, monkeypatch):
    """A program called ssh that says what version it is."""

    def named(said):
        program = tmp_path / "ssh"
        program.write_text(f"#!/bin/sh\necho '{said}' >&2\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        ssh_settings._version.cache_clear()

    yield named
    ssh_settings._version.cache_clear()


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ("OpenSSH_10.0p2 Debian-7, OpenSSL 3.5.1", {"RemoteCommand", "SessionType", "StdinNull"}),
        ("OpenSSH_9.2p1 Debian-2", {"RemoteCommand", "SessionType", "ForkAfterAuthentication"}),
        ("OpenSSH_for_Windows_8.6p1, LibreSSL", {"RemoteCommand"}),
        ("OpenSSH_8.2p1 Ubuntu-4ubuntu0.5", {"RemoteCommand"}),
        ("OpenSSH_7.2p2", set()),
        ("Dropbear v2022.83", set()),
    ],
)
def test_an_older_ssh_is_not_told_of_options_it_does_not_know(ssh, said, options):
    ssh(said)
    words = " ".join(ssh_settings.settings("/s", master=False))
    assert {name for name in options if name in words} == options
    for name in ("RemoteCommand", "SessionType", "StdinNull", "ForkAfterAuthentication"):
        if not options or (name != "RemoteCommand" and "SessionType" not in options):
            assert name not in words


def test_the_ssh_that_is_here_takes_them():
    for master in (True, False):
        done = subprocess.run(
            ["ssh", "-G", *ssh_settings.settings("/s", master=master), "board"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "requesttty false" in done.stdout
        assert "controlpersist no" in done.stdout
