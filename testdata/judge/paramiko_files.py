# What paramiko does with files: python3 paramiko_files.py PORT USER KEY KNOWN_HOSTS SRC FAR BACK
import hashlib
import os
import stat
import sys

# This file must not be found in the place of the package.
sys.path = [p for p in sys.path if p != os.path.dirname(os.path.abspath(__file__))]
import paramiko

PORT, USER, KEY, KNOWN, SRC, FAR, BACK = int(sys.argv[1]), *sys.argv[2:]


def want(what, got, wanted):
    if got != wanted:
        sys.exit(f"{what}: {got!r:.200}, not {wanted!r:.200}")


def fails(what, error, do, *args):
    try:
        do(*args)
    except error:
        return
    sys.exit(f"{what}: no {error.__name__}")


client = paramiko.SSHClient()
client.load_host_keys(KNOWN)  # any other is refused
client.connect("127.0.0.1", PORT, USER, key_filename=KEY, allow_agent=False, look_for_keys=False, timeout=30)
sftp = client.open_sftp()

sftp.mkdir(FAR)
for top, dirs, files in os.walk(SRC):
    rel = os.path.relpath(top, SRC)
    for name in dirs:
        sftp.mkdir(os.path.join(FAR, rel, name))
    for name in files:
        here, there = os.path.join(top, name), os.path.join(FAR, rel, name)
        st = os.stat(here)
        want("size", sftp.put(here, there).st_size, st.st_size)
        sftp.chmod(there, stat.S_IMODE(st.st_mode))
        sftp.utime(there, (st.st_mtime, st.st_mtime))


def fetch(there, here):
    os.mkdir(here)
    for entry in sftp.listdir_attr(there):
        path = there + "/" + entry.filename
        if stat.S_ISDIR(entry.st_mode):
            fetch(path, here + "/" + entry.filename)
        else:
            sftp.get(path, here + "/" + entry.filename)
            os.chmod(here + "/" + entry.filename, stat.S_IMODE(entry.st_mode))
            os.utime(here + "/" + entry.filename, (entry.st_mtime, entry.st_mtime))


fetch(FAR, BACK)

at = FAR + ".more"
sftp.mkdir(at, 0o700)
want("mode", stat.S_IMODE(sftp.stat(at).st_mode), 0o700)
sftp.chdir(at)
want("cwd", sftp.getcwd(), at)
with sftp.open("file", "w") as f:
    f.set_pipelined(True)
    for i in range(3000):
        f.write(b"%07d\n" % i)
    f.flush()
with sftp.open("file", "r") as f:  # all reads at once, 2048 and more
    f.prefetch()
    want("lines", hashlib.sha256(f.read()).hexdigest(), hashlib.sha256(b"".join(b"%07d\n" % i for i in range(3000))).hexdigest())
    f.seek(8 * 1234)
    want("seek", f.read(8), b"0001234\n")
    want("many ranges", [bytes(c) for c in f.readv([(0, 8), (80, 8), (8 * 2999, 100)])], [b"0000000\n", b"0000010\n", b"0002999\n"])
with sftp.open("file", "a") as f:
    f.write(b"end\n")
with sftp.open("file", "r+") as f:
    f.write(b"first..\n")
    f.seek(8)
    want("second", f.readline(), "0000001\n")
    f.truncate(16)
want("truncated", sftp.stat("file").st_size, 16)
fails("exclusive", IOError, sftp.open, "file", "x")
fails("missing", FileNotFoundError, sftp.stat, "missing")
fails("missing", FileNotFoundError, sftp.open, "missing", "r")
sftp.symlink("file", "soft")
want("link", sftp.readlink("soft"), "file")
want("link", stat.S_ISLNK(sftp.lstat("soft").st_mode), True)
want("normal", sftp.normalize("../" + os.path.basename(at) + "/./soft"), at + "/file")
sftp.open("other", "w").close()
fails("rename over", IOError, sftp.rename, "file", "other")
sftp.posix_rename("file", "other")
want("names", sorted(sftp.listdir()), ["other", "soft"])
fails("not empty", IOError, sftp.rmdir, at)
sftp.remove("other")
sftp.remove("soft")
sftp.rmdir(at)
print("all well")
