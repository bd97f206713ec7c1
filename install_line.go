package main

// This file makes the line that brings a machine in by one paste. A coordinator
// that hands out builds of this program names them by a set: a short hash over
// names and hashes of all of them, so that a line stands for certain builds.
//
//	curl -fsSL URL/i/SET | sh -s -- TICKET

import (
	"crypto/sha256"
	"fmt"
	"strings"
)

// setLen is how long a set's name is: 80 bits in base32.
const setLen = 16

// maxPublicURL bounds a coordinator's public address, in bytes.
const maxPublicURL = 200

// buildSetID names the set of builds of a manifest: lines "NAME SHA256" in
// order, the hash in hex.
func buildSetID(manifest string) string {
	h := sha256.Sum256([]byte(manifest))
	return base32Lower.EncodeToString(h[:])[:setLen]
}

// parsePublicURL checks an address that will stand in shell scripts and on
// terminals: http or https, a host, perhaps a port and a path. What it returns
// has no slash at its end.
func parsePublicURL(s string) (string, error) {
	scheme, rest, _ := strings.Cut(s, "://")
	if len(s) > maxPublicURL || scheme != "https" && scheme != "http" {
		return "", fmt.Errorf("%.*q is not of the form https://HOST, at most %d characters", maxPublicURL, s, maxPublicURL)
	}
	addr, path, _ := strings.Cut(strings.TrimRight(rest, "/"), "/")
	full, port := addr, ""
	if i := strings.LastIndexByte(addr, ':'); i < strings.LastIndexByte(addr, ']') || i < 0 {
		full, port = addr+":443", ":443"
	}
	full, err := parseCoordAddr(full)
	if err != nil {
		return "", fmt.Errorf("%q: %w", s, err)
	}
	if strings.Trim(path, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/") != "" || strings.Contains(path, "..") {
		return "", fmt.Errorf("%q: the path may have letters, digits, dots and dashes only", s)
	}
	clean := scheme + "://" + strings.TrimSuffix(full, port)
	if path != "" {
		clean += "/" + path
	}
	return clean, nil
}

// installLines are the line by curl and the line by wget that install a set of
// the coordinator at url and join by a ticket; none where url or set is
// nothing that may stand in a shell.
func installLines(url, set, ticket string) []string {
	url, err := parsePublicURL(url)
	if err != nil || len(set) != setLen || strings.Trim(set, "abcdefghijklmnopqrstuvwxyz234567") != "" {
		return nil
	}
	tail := url + "/i/" + set + " | sh -s -- " + ticket
	return []string{"curl -fsSL " + tail, "wget -qO- " + tail}
}
