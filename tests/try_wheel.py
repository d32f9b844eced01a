"""Install the wheel in a clean environment and run it: `python tests/try_wheel.py dist`.

Torch is borrowed from the environment that runs this, so that a wheel is tried in seconds; what
the wheel itself brings is compared name by name.
"""

import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

SCRIPT = """
import sys, pathlib, edgekd
from edgekd.targets import catalogue
import edgekd.bench.agent, edgekd.distill.recipes, edgekd.export.compatibility
where = pathlib.Path(edgekd.__file__).parent
assert str(where).startswith(sys.prefix), where
assert (where / "bench" / "agent" / "__main__.py").is_file()
assert len(catalogue.boards()) >= 15
for name in ("report.html", "model_card.md", "model.h", "edgekd-modelConfig.cmake", "edgekd-firstboot.service"):
    assert (where / "templates" / name).is_file(), name
from edgekd.distill.teachers import fingerprints
assert "timm:resnet50" in fingerprints.load_index().entries
print("edgekd", edgekd.__version__, "runs from its wheel")
"""


def main() -> None:
    (wheel,) = Path(sys.argv[1]).glob("edgekd-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    unexpected = {top for top in tops if top != "edgekd" and not top.endswith(".dist-info")}
    if unexpected:
        sys.exit(f"the wheel brings more than edgekd: {sorted(unexpected)}")
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "venv"
        run = [str(environment / "bin" / "python"), "-I"]
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        pip = [*run, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, str(wheel)], check=True)
        borrowed = subprocess.run(
            [*run, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        # After the environment's own packages, so that edgekd is the wheel's.
        path_file = Path(borrowed) / "borrowed.pth"
        path_file.write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        subprocess.run([*run, "-c", SCRIPT], check=True, cwd=folder)
        tool = environment / "bin" / "edgekd"
        subprocess.run([str(tool), "targets", "show", "jetson"], check=True, cwd=folder)


if __name__ == "__main__":
    main()
