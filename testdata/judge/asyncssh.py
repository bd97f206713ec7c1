# What asyncssh asks of a server: python3 asyncssh.py PORT USER KEY PASSWORD KNOWN_HOSTS
import asyncio
import os
import sys

# This file must not be found in the place of the package.
sys.path = [p for p in sys.path if p != os.path.dirname(os.path.abspath(__file__))]
import asyncssh

PORT, USER, KEY, PASSWORD, KNOWN = int(sys.argv[1]), *sys.argv[2:]


def connect(**auth):
    return asyncssh.connect("127.0.0.1", PORT, username=USER, known_hosts=KNOWN, agent_path=None, config=None, **auth)


def want(what, got, wanted):
    if got != wanted:
        sys.exit(f"{what}: {got!r:.200}, not {wanted!r:.200}")


async def echo(reader, writer):
    writer.write(await reader.read())
    writer.write_eof()
    await writer.drain()
    writer.close()


async def ask(reader, writer, block):
    writer.write(block)
    writer.write_eof()
    got = await reader.read()
    writer.close()
    return got == block


async def main():
    async with connect(client_keys=None, password=PASSWORD) as conn:
        want("password", (await conn.run("echo in")).stdout, "in\n")
    try:
        async with connect(client_keys=None, password=PASSWORD + "x"):
            sys.exit("a wrong password was let in")
    except asyncssh.PermissionDenied:
        pass

    async with connect(client_keys=[KEY]) as conn:
        done = await conn.run("cat; echo bad >&2; exit 5", input="line\n")
        want("exec", (done.stdout, done.stderr, done.exit_status), ("line\n", "bad\n", 5))
        done = await conn.run("kill -KILL $$")
        want("killed", done.exit_signal[0], "KILL")
        block = os.urandom(3 << 20)
        done = await conn.run("cat", input=block, encoding=None)
        want("bytes", done.stdout == block, True)

        process = await conn.create_process("trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done")
        await process.stdout.readline()
        process.terminate()
        want("terminate()", (await process.wait()).exit_status, 9)
        process = await conn.create_process("exec sleep 1000")
        process.kill()
        want("kill()", (await process.wait()).exit_signal[0], "KILL")

        process = await conn.create_process("stty size; read x; stty size", term_type="xterm", term_size=(91, 33))
        want("terminal", (await process.stdout.readline()).strip(), "33 91")
        process.change_terminal_size(70, 20)
        process.stdin.write("x\n")
        await process.stdout.readline()  # its echo
        want("another size", (await process.stdout.readline()).strip(), "20 70")
        await process.wait()

        many = await asyncio.gather(*(conn.run(f"sleep 0.1; echo {i}; exit {i}") for i in range(12)))
        want("twelve at once", [(d.stdout, d.exit_status) for d in many], [(f"{i}\n", i) for i in range(12)])

        block = block[: 300 << 10]
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        there = server.sockets[0].getsockname()[1]
        want("to a port there", await ask(*await conn.open_connection("127.0.0.1", there, encoding=None), block), True)
        try:
            await conn.open_connection("127.0.0.1", 1)
            sys.exit("a port that nobody listens on was opened")
        except asyncssh.ChannelOpenError as err:
            want("no such port", err.code, 2)
        for listener in (
            await conn.forward_local_port("127.0.0.1", 0, "127.0.0.1", there),
            await conn.forward_remote_port("127.0.0.1", 0, "127.0.0.1", there),
        ):
            port = listener.get_port()
            want("a forwarded port", await ask(*await asyncio.open_connection("127.0.0.1", port), block), True)
            listener.close()
            await listener.wait_closed()
        server.close()
    print("all well")


asyncio.run(asyncio.wait_for(main(), 60))
