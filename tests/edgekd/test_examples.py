"""The examples for firmware pipelines, as far as they can be run without their build systems; their READMEs say so."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgekd.bundle import packing, verification
from tests.edgekd.conftest import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
RECIPE = EXAMPLES / "yocto/meta-edgekd-model/recipes-edgekd/edgekd-model/edgekd-model_1.0.bb"
SCRIPTS = sorted(EXAMPLES.glob("ota/*/pack.sh"))
ON_DEVICE = {"manifest.json", "model-fp32.onnx", "model-int8.onnx", "firstboot/agent.pyz"}


def need(*programs):
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def run(*words, code: int | None = 0, **changes):
    done = subprocess.run(
        list(map(str, words)), capture_output=True, text=True, check=False, **changes
    )
    assert code is None or done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def archive(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "model.tar"
    packing.pack(made[0], path, date=315532800, force=False)
    return path


def files_of(folder):
    return {each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file()}


def starts_from(folder, tmp_path):
    """The agent makes the model ready from what was installed."""
    agent = [sys.executable, folder / "firstboot/agent.pyz", "firstboot"]
    words = ["--runtime", "onnxruntime", "--bundle", folder, "--state", tmp_path / "state"]
    run(*agent, *words)


# --- Yocto ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", ["kirkstone", "scarthgap", "wrynose"])
def test_the_recipe_is_linted(release, tmp_path):
    linter = shutil.which("oelint-adv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if linter is None:
        pytest.skip("not installed: oelint-adv")
    layer = shutil.copytree(EXAMPLES / "yocto/meta-edgekd-model", tmp_path / "layer")
    options = ["--release", release, "--jobs", "1", "--quiet", "--hide", "info"]
    options += ["--suppress", "oelint.vars.homepageping"]  # it would ask the network
    recipe = layer / RECIPE.relative_to(EXAMPLES / "yocto/meta-edgekd-model")
    done = run(linter, *options, recipe, layer / "conf/layer.conf")
    assert done.stderr == ""
    text = recipe.read_text()
    recipe.write_text(text.replace("SUMMARY", "SUMARY").replace("RDEPENDS:", "RDEPENDS_"))
    assert run(linter, *options, recipe, code=None).returncode != 0


def test_the_recipe_installs_what_a_device_needs(archive, tmp_path):
    source, image = tmp_path / "source", tmp_path / "image"
    source.mkdir()
    run("tar", "-C", source, "-xf", archive)
    body = re.search(r"^do_install\(\) \{\n(.*?)^\}", RECIPE.read_text(), re.MULTILINE | re.DOTALL)
    assert body is not None
    environment = {
        **os.environ,
        "S": str(source),
        "D": str(image),
        "datadir": "/usr/share",
        "systemd_system_unitdir": "/usr/lib/systemd/system",
    }
    run("sh", "-eu", "-c", body[1], env=environment)
    installed = files_of(image / "usr/share/edgekd/model")
    assert installed >= ON_DEVICE
    assert not any(name.endswith((".npy", ".safetensors")) for name in installed)
    assert files_of(image / "usr/lib") == {"systemd/system/edgekd-firstboot.service"}
    starts_from(image / "usr/share/edgekd/model", tmp_path)
    (source / "model-int8.onnx").write_bytes(b"another")
    run("sh", "-eu", "-c", body[1], env=environment, code=1)


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"WORKDIR": "/w"}, "/w"),
        ({"WORKDIR": "/w", "UNPACKDIR": "/w/sources"}, "/w/sources"),
    ],
    ids=["kirkstone and scarthgap", "wrynose"],
)
def test_the_recipe_finds_its_sources_on_old_and_new_releases(variables, folder):
    found = re.search(r'^S = "\$\{@(.*)\}/\$\{BP\}"$', RECIPE.read_text(), re.MULTILINE)
    assert found is not None

    class Data:
        def getVar(self, name):  # noqa: N802 - bitbake's name
            return variables.get(name)

    assert eval(found[1], {"d": Data()}) == folder


# --- Buildroot ------------------------------------------------------------------------------------


def test_the_package_installs_what_a_device_needs(archive, tmp_path):
    need("make")
    source, image = tmp_path / "edgekd-model-1.0", tmp_path / "image"
    source.mkdir()
    run("tar", "-C", source, "-xf", archive)
    package = EXAMPLES / "buildroot/package/edgekd-model/edgekd-model.mk"
    # The rules that Buildroot would make of the package: its commands, with the variables that they use.
    (tmp_path / "Makefile").write_text(
        "INSTALL = install\n"
        f"TARGET_DIR = {image}\n"
        f"include {package}\n"
        f"{tmp_path}/%/installed:\n"
        "\t$(EDGEKD_MODEL_INSTALL_TARGET_CMDS)\n"
        "\t$(EDGEKD_MODEL_INSTALL_INIT_SYSTEMD)\n"
    )
    run("make", "-C", tmp_path, source / "installed")
    installed = files_of(image / "usr/share/edgekd/model")
    assert installed >= ON_DEVICE
    assert not any(name.endswith((".npy", ".safetensors")) for name in installed)
    starts_from(image / "usr/share/edgekd/model", tmp_path)


def test_digests_have_the_form_that_the_build_systems_take(archive):
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    said = (EXAMPLES / "buildroot/package/edgekd-model/edgekd-model.hash").read_text()
    line = said.splitlines()[-1].replace("0" * 64, digest)
    assert re.fullmatch(rf"sha256  {digest}  edgekd-model-1\.0\.tar", line)
    assert f'SRC_URI[sha256sum] = "{"0" * 64}"' in RECIPE.read_text()


# --- updates over the air -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two certificates with their keys; only the first is the device's."""
    need("openssl")
    folder = tmp_path_factory.mktemp("keys")
    usage = ("keyUsage=critical,digitalSignature", "extendedKeyUsage=critical,emailProtection")
    for name in ("own", "other"):
        words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650"]
        words += ["-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"]
        run(*words, "-subj", f"/CN={name}", *(word for each in usage for word in ("-addext", each)))
    return folder


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.parent.name)
def test_scripts_are_linted(script):
    need("shellcheck")
    run("shellcheck", script)


def test_rauc_packs_and_verifies_an_update_with_the_bundle_inside(archive, keys, tmp_path):
    need("rauc", "mksquashfs")
    update = tmp_path / "update.raucb"
    run(EXAMPLES / "ota/rauc/pack.sh", archive, keys / "own.pem", keys / "own.key", update)
    said = run("rauc", f"--keyring={keys / 'own.pem'}", "info", update).stdout
    assert hashlib.sha256(archive.read_bytes()).hexdigest() in said
    run("rauc", f"--keyring={keys / 'own.pem'}", "extract", update, tmp_path / "out")
    assert (tmp_path / "out/model.tar").read_bytes() == archive.read_bytes()
    refused = run("rauc", f"--keyring={keys / 'other.pem'}", "info", update, code=1)
    assert "signature" in refused.stderr.lower()


def test_swupdate_installs_an_update_with_the_bundle_inside(made, archive, keys, tmp_path):
    need("swupdate", "cpio")
    place, update = tmp_path / "model", tmp_path / "update.swu"
    place.mkdir()
    pack = (EXAMPLES / "ota/swupdate/pack.sh", archive, keys / "own.pem", keys / "own.key")
    run(*pack, update, place)

    def install(file, key, code):
        words = ["swupdate", "-M", "-m", "-H", "my-board:1.0", "-k", keys / f"{key}.pem"]
        return run(*words, "-i", file, code=code, timeout=60, cwd=tmp_path)

    install(update, "other", 1)
    assert files_of(place) == set()
    data = update.read_bytes()
    at = data.index((made[0] / "model-int8.onnx").read_bytes()) + 1000
    (tmp_path / "changed.swu").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    install(tmp_path / "changed.swu", "own", 1)
    shutil.rmtree(place)
    place.mkdir()
    install(update, "own", 0)
    verification.verify_bundle(place)
    assert files_of(place) == files_of(made[0])
    starts_from(place, tmp_path)


# --- continuous integration -----------------------------------------------------------------------


@pytest.fixture
def project(made, tmp_path):
    """A repository that keeps a bundle, with a budget that it is within."""
    folder = tmp_path / "project"
    shutil.copytree(made[0], folder / "bundle")
    budget = (EXAMPLES / "ci/edgekd.toml").read_text()
    assert "agreement = 0.95" in budget
    # The suite's bundle has learned for seconds.
    (folder / "edgekd.toml").write_text(budget.replace("agreement = 0.95", "agreement = 0.001"))
    return folder


@pytest.fixture
def environment(tmp_path):
    """Where `edgekd` is this one."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "edgekd"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m edgekd "$@"\n')
    program.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }


def steps(kind):
    yaml = pytest.importorskip("yaml")
    if kind == "github":
        said = yaml.safe_load((EXAMPLES / "ci/github/edgekd.yml").read_text())
        return [each["run"] for each in said["jobs"]["gate"]["steps"] if "run" in each]
    said = yaml.safe_load((EXAMPLES / "ci/gitlab/edgekd.gitlab-ci.yml").read_text())
    return list(said["edgekd"]["script"])


def piped(kind, project, environment):
    """Exit codes of the steps, up to the first that fails, and what the last one printed."""
    codes, said = [], ""
    for step in steps(kind):
        words = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step)
        done = run(*words, code=None, cwd=project, env=environment)
        codes.append(done.returncode)
        said = done.stdout + done.stderr
        if done.returncode:
            break
    return codes, said


@pytest.mark.parametrize("kind", ["github", "gitlab"])
def test_pipelines_pass_within_the_budget_and_fail_above_it(kind, project, environment, tmp_path):
    codes, said = piped(kind, project, environment)
    assert codes == [0, 0, 0], said
    assert "<failure" not in (project / "gate.xml").read_text()
    text = (project / "edgekd.toml").read_text()
    (project / "edgekd.toml").write_text(text.replace("size-kib = 200", "size-kib = 1"))
    codes, said = piped(kind, project, environment)
    assert codes == [0, 0, 5]
    assert "<failure" in (project / "gate.xml").read_text()
    if kind == "github":
        assert "::error" in said
        assert "size" in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize("kind", ["github", "gitlab"])
def test_pipelines_refuse_a_changed_bundle(kind, project, environment):
    (project / "bundle/model-int8.onnx").write_bytes(b"another")
    codes, _ = piped(kind, project, environment)
    assert codes == [7]


def test_hooks_run_before_a_commit(project, environment, tmp_path):
    need("git")
    pytest.importorskip("pre_commit")
    environment |= {
        "PRE_COMMIT_HOME": str(tmp_path / "pre-commit"),
        "GIT_CONFIG_GLOBAL": "/dev/null",
        **{
            f"GIT_{who}_{what}": "edgekd@example.com"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        },
    }
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    shutil.copy(REPOSITORY / ".pre-commit-hooks.yaml", hooks)
    for folder in (hooks, project):
        run("git", "init", "-q", cwd=folder, env=environment)
        run("git", "add", ".", cwd=folder, env=environment)
        run("git", "commit", "-q", "-m", "first", cwd=folder, env=environment)
    revision = run("git", "rev-parse", "HEAD", cwd=hooks, env=environment).stdout.strip()
    readme = (EXAMPLES / "ci/README.md").read_text()
    found = re.search(r"```yaml\n(.*?)```", readme, re.DOTALL)
    assert found is not None
    config = found[1].replace("https://github.com/you/edgekd", str(hooks))
    (project / ".pre-commit-config.yaml").write_text(config.replace("v0.1.0", revision))
    check = (sys.executable, "-m", "pre_commit", "run", "--all-files")
    done = run(*check, cwd=project, env=environment)
    assert done.stdout.count("Passed") == 2
    (project / "edgekd.toml").write_text('[budget]\ntarget = "jetson"\nsize-kib = 1\n')
    done = run(*check, cwd=project, env=environment, code=1)
    assert "exit code: 5" in done.stdout
