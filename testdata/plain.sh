#!/bin/sh
# Runs a command where shells find no start-up files of root's: what a machine's
# own ~/.bashrc does (half a second each, for some tools) is not what is tested,
# and bash reads it for every command that comes by SSH. Who is not root, or may
# not mount, runs as it is.
home=$(getent passwd 0 2>/dev/null | cut -d: -f6)
hide() {
	for file in .bashrc .bash_profile .bash_login .profile; do
		[ ! -f "$home/$file" ] || mount --bind /dev/null "$home/$file"
	done
}
if [ "$1" = -hidden ]; then
	shift
	hide
	exec "$@"
fi
if [ "$(id -u)" = 0 ] && [ -n "$home" ] && unshare --mount --propagation private true 2>/dev/null; then
	exec unshare --mount --propagation private sh "$0" -hidden "$@"
fi
exec "$@"
