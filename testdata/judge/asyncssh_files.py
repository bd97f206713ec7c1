# What asyncssh does with files: python3 asyncssh_files.py PORT USER KEY KNOWN_HOSTS SRC FAR BACK
import asyncio
import os
import sys

# This file must not be found in the place of the package.
sys.path = [p for p in sys.path if p != os.path.dirname(os.path.abspath(__file__))]
import asyncssh

PORT, USER, KEY, KNOWN, SRC, FAR, BACK = int(sys.argv[1]), *sys.argv[2:]


def want(what, got, wanted):
    if got != wanted:
        sys.exit(f"{what}: {got!r:.200}, not {wanted!r:.200}")


async def fails(what, error, doing):
    try:
        await doing
    except error:
        return
    sys.exit(f"{what}: no {error.__name__}")


async def main():
    async with asyncssh.connect("127.0.0.1", PORT, username=USER, client_keys=[KEY], known_hosts=KNOWN, agent_path=None, config=None) as conn:
        async with conn.start_sftp_client() as sftp:
            await sftp.put(SRC, FAR, preserve=True, recurse=True)
            await sftp.get(FAR, BACK, preserve=True, recurse=True)
            at = FAR + ".more"
            await sftp.mkdir(at)
            await sftp.chdir(at)
            async with sftp.open("file", "wb") as f:
                await f.write(b"0123456789" * 100000)
                want("size", (await f.stat()).size, 1000000)
                await f.fsync()
            async with sftp.open("file", "rb") as f:
                want("bytes", await f.read(10, 10), b"0123456789")
                want("room", (await f.statvfs()).bsize > 0, True)
            want("glob", await sftp.glob("f*"), ["file"])
            await sftp.link("file", "hard")
            await sftp.symlink("file", at + "/soft")  # which it would not add
            want("link", await sftp.readlink("soft"), at + "/file")
            want("real", await sftp.realpath("soft"), at + "/file")
            await sftp.truncate("file", 5)
            want("size", await sftp.getsize("hard"), 5)
            await sftp.chmod("file", 0o640)
            want("mode", (await sftp.stat("file")).permissions & 0o777, 0o640)
            await sftp.posix_rename("file", "hard2")
            await fails("missing", asyncssh.SFTPNoSuchFile, sftp.stat("file"))
            await fails("there", asyncssh.SFTPFailure, sftp.mkdir("hard"))
            want("names", sorted(await sftp.listdir()), [".", "..", "hard", "hard2", "soft"])
            await sftp.rmtree(at)
            want("gone", await sftp.exists(at), False)
        await asyncssh.scp(SRC + "/big", (conn, FAR + ".scp"))
        await asyncssh.scp((conn, FAR + ".scp"), BACK + ".scp")
        with open(SRC + "/big", "rb") as a, open(BACK + ".scp", "rb") as b:
            want("by scp", b.read() == a.read(), True)
    print("all well")


asyncio.run(main())
