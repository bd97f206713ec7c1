# What paramiko asks of a server: python3 paramiko.py PORT USER KEY PASSWORD KNOWN_HOSTS
import hashlib
import os
import socket
import sys
import threading

# This file must not be found in the place of the package.
sys.path = [p for p in sys.path if p != os.path.dirname(os.path.abspath(__file__))]
import paramiko

PORT, USER, KEY, PASSWORD, KNOWN = int(sys.argv[1]), *sys.argv[2:]
LIMIT = 30  # seconds that anything may take


def connect(**auth):
    client = paramiko.SSHClient()
    client.load_host_keys(KNOWN)  # any other is refused
    client.connect("127.0.0.1", PORT, USER, allow_agent=False, look_for_keys=False, timeout=LIMIT, **auth)
    return client


def execute(client, command, given=b""):
    """Runs a command to its end: output, errors, status."""
    stdin, stdout, stderr = client.exec_command(command, timeout=LIMIT)
    threading.Thread(target=lambda: (stdin.write(given), stdin.channel.shutdown_write())).start()
    return stdout.read(), stderr.read(), stdout.channel.recv_exit_status()


def echo_server():
    """Answers each connection with what it has sent, after its end."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            conn, _ = listener.accept()
            with conn:
                conn.sendall(receive(conn))

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]


def receive(conn):
    got = b""
    while True:
        block = conn.recv(65536)
        if not block:
            return got
        got += block


def want(what, got, wanted):
    if got != wanted:
        sys.exit(f"{what}: {got!r:.200}, not {wanted!r:.200}")


client = connect(password=PASSWORD)
want("password", execute(client, "echo in"), (b"in\n", b"", 0))
client.close()
try:
    connect(password=PASSWORD + "x")
    sys.exit("a wrong password was let in")
except paramiko.AuthenticationException:
    pass

client = connect(key_filename=KEY)
want("exec", execute(client, "cat; echo bad >&2; exit 5", b"line\n"), (b"line\n", b"bad\n", 5))
block = os.urandom(3 << 20)
want("bytes", hashlib.sha256(execute(client, "cat", block)[0]).digest(), hashlib.sha256(block).digest())
client.get_transport().renegotiate_keys()
want("after new keys", execute(client, "echo on"), (b"on\n", b"", 0))

shell = client.invoke_shell(width=91, height=33)
shell.settimeout(LIMIT)
shell.send(b"stty size; exit 4\n")
said = receive(shell)
want("terminal", b"33 91\r\n" in said, True)
want("shell", shell.recv_exit_status(), 4)

block = block[: 300 << 10]
port = echo_server()
transport = client.get_transport()
for _ in range(3):
    channel = transport.open_channel("direct-tcpip", ("127.0.0.1", port), ("127.0.0.1", 4))
    channel.settimeout(LIMIT)
    channel.sendall(block)
    channel.shutdown_write()
    want("to a port there", receive(channel) == block, True)
    channel.close()
try:
    transport.open_channel("direct-tcpip", ("127.0.0.1", 1), ("127.0.0.1", 4))
    sys.exit("a port that nobody listens on was opened")
except paramiko.ChannelException as err:
    want("no such port", err.code, 2)

port = transport.request_port_forward("127.0.0.1", 0)
with socket.create_connection(("127.0.0.1", port), LIMIT) as conn:
    channel = transport.accept(LIMIT)
    conn.sendall(block)
    conn.shutdown(socket.SHUT_WR)
    want("from a port there", receive(channel) == block, True)
    channel.sendall(b"answer")
    channel.close()
    want("back to a port there", receive(conn), b"answer")
transport.cancel_port_forward("127.0.0.1", port)
try:
    socket.create_connection(("127.0.0.1", port), LIMIT)
    sys.exit("a port that was given back is open")
except ConnectionRefusedError:
    pass
client.close()
print("all well")
