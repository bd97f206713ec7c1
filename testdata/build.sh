#!/usr/bin/env bash
# Builds the program as it is shipped. Arguments: flags of the linker, then
# what else "go build" shall be told. The system is that of GOOS and GOARCH;
# SESSIO_TAGS=router leaves out all that speaks HTTP.
#
# Nothing here speaks HTTP/2 (0.6 MB). Our own package is not inlined into
# itself (0.14 MB), nor are packages that no packet passes through, or where a
# call more is nothing beside what is done for a packet (0.5 MB);
# functions begin at multiples of 16 bytes (0.1 MB on amd64).
set -euo pipefail
ldflags=$1
shift
cold="sessio net/http net/http/... net net/url net/textproto mime mime/... crypto/x509 crypto/x509/... crypto/tls
crypto/hpke crypto/ecdsa crypto/rsa crypto/elliptic crypto/dsa crypto/internal/fips140/ecdsa
crypto/internal/fips140/rsa crypto/internal/fips140/drbg encoding/json encoding/asn1 encoding/base64 encoding/hex
encoding/pem reflect fmt flag math/big vendor/golang.org/x/text/... vendor/golang.org/x/net/... os os/... io/fs
path path/filepath compress/... bufio strconv internal/strconv strings time context syscall internal/poll
golang.org/x/sys/unix golang.org/x/crypto/ssh golang.org/x/crypto/cryptobyte vendor/golang.org/x/crypto/cryptobyte
crypto/internal/fips140/nistec/fiat"
align=16
case ${GOARCH:-} in arm | mips*) align=8 ;; esac # where a cache line holds less
flags=()
for package in $cold; do flags+=("-gcflags=$package=-l"); done
CGO_ENABLED=0 exec "${GO:-go}" build -trimpath -tags "nethttpomithttp2 ${SESSIO_TAGS:-}" "${flags[@]}" -ldflags "$ldflags -funcalign=$align" "$@" .
