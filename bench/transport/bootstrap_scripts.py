"""What is run on a board before there is an agent: programs of a few lines, given to its Python as text."""

from typing import Final

# To be left free on the board
SLACK_BYTES: Final = 16 * 2**20
# Run by whichever Python the board has; it must be readable by old ones too, for these to say that they are old.
CONTACT: Final = """
import json, os, sys
home = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache"), "edgekd")
missing = []
for name in ("argparse", "ctypes", "fcntl", "hashlib", "json", "select", "subprocess", "zipimport"):
    try:
        __import__(name)
    except ImportError:
        missing.append(name)
try:
    store = sorted(os.listdir(os.path.join(home, "store")))
except OSError:
    store = []
sys.stdout.write(json.dumps({"home": home, "python": list(sys.version_info[:3]), "missing": missing, "store": store,
    "executable": sys.executable}))
"""
PUSH: Final = (
    """
import errno, hashlib, os, sys
home, digest, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = os.path.join(home, "store")
os.makedirs(store, 0o700, exist_ok=True)
space = os.statvfs(store)
free = space.f_bavail * space.f_frsize
if free < size + SLACK:
    sys.stderr.write("edgekd: no space: %d bytes are free, %d are needed\\n" % (free, size))
    sys.exit(73)
part = os.path.join(store, ".part-" + digest + "-" + str(os.getpid()))
found = hashlib.sha256()
try:
    with open(part, "wb") as stream:
        for block in iter(lambda: sys.stdin.buffer.read(1 << 16), b""):
            found.update(block)
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
    if found.hexdigest() != digest:
        sys.stderr.write("edgekd: cut: what came has another digest\\n")
        sys.exit(74)
    os.rename(part, os.path.join(store, digest))
except OSError as error:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise
    sys.stderr.write("edgekd: no space: %s\\n" % error)
    sys.exit(73)
finally:
    if os.path.exists(part):
        os.unlink(part)
"""
).replace("SLACK", str(SLACK_BYTES))
CLEAR: Final = """
import os, shutil, sys
home = sys.argv[1]
for name in ("store", "engines", "runs"):
    shutil.rmtree(os.path.join(home, name), ignore_errors=True)
if os.path.exists(os.path.join(home, "lock")):
    os.unlink(os.path.join(home, "lock"))
os.rmdir(home)
"""
NO_SPACE: Final = 73
CUT: Final = 74
NO_PYTHON: Final = 127
