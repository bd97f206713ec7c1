package main

// This file reads and writes the lines of each op of a statement.

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// body reads the lines of the op, or returns nil for an op not known here.
func (r *stmtReader) body(op string) stmtBody {
	switch op {
	case "genesis":
		return opGenesis{nonce: r.nonce(), signers: r.signerLines()}
	case "signer.add":
		return opSignerAdd{signer: r.signerLine(r.value("signer"))}
	case "signer.remove":
		return opSignerRemove{signer: signerID(r.id("signer-id", 's')), since: r.number("since")}
	case "device.add":
		return opDeviceAdd{device: deviceID(r.id("device", 'd')), grant: deviceGrant{name: r.name()}, keys: r.keys()}.withGrant(r)
	case "device.update":
		return opDeviceUpdate{device: deviceID(r.id("device", 'd')), grant: r.grant(r.name())}
	case "recover":
		return opRecover{since: r.number("since"), signers: r.signerLines()}
	case "device.revoke":
		return opDeviceRevoke{devices: r.deviceIDs(), reason: r.reason()}
	}
	return nil
}

func (o opGenesis) appendLines(b []byte) []byte {
	b = fmt.Appendf(b, "nonce %x\n", o.nonce[:])
	return appendSignerLines(b, o.signers)
}

func (o opSignerAdd) appendLines(b []byte) []byte {
	return appendSignerLines(b, []signerLine{o.signer})
}

func (o opSignerRemove) appendLines(b []byte) []byte {
	return fmt.Appendf(b, "signer-id %s\nsince %d\n", o.signer, o.since)
}

func (o opDeviceAdd) appendLines(b []byte) []byte {
	b = fmt.Appendf(b, "device %s\nname %s\nkey %s %s\npath %s\n", o.device, o.grant.name,
		ssh.KeyAlgoED25519, b64(o.keys.sshKey().Marshal()), b64(o.keys.path[:]))
	return o.grant.appendLines(b)
}

func (o opDeviceUpdate) appendLines(b []byte) []byte {
	b = fmt.Appendf(b, "device %s\nname %s\n", o.device, o.grant.name)
	return o.grant.appendLines(b)
}

func (o opRecover) appendLines(b []byte) []byte {
	b = fmt.Appendf(b, "since %d\n", o.since)
	return appendSignerLines(b, o.signers)
}

func (o opDeviceRevoke) appendLines(b []byte) []byte {
	for _, id := range o.devices {
		b = fmt.Appendf(b, "device %s\n", id)
	}
	return fmt.Appendf(b, "reason %s\n", o.reason)
}

// appendLines writes all but the name, which stands before the keys.
func (g deviceGrant) appendLines(b []byte) []byte {
	users := strings.Join(g.users, ",")
	if users == "" {
		users = "-"
	}
	return fmt.Appendf(b, "roles %s\nusers %s\ncaps %s\nexpires %d\n",
		strings.Join(g.roles, ","), users, strings.Join(g.caps, ","), g.expires)
}

func (r *stmtReader) nonce() (nonce [16]byte) {
	v := r.value("nonce")
	if r.err != nil {
		return nonce
	}
	n, err := hex.DecodeString(v)
	if err != nil || len(n) != len(nonce) || strings.ToLower(v) != v {
		r.fail("nonce %q is not 32 lower-case hex digits", v)
		return nonce
	}
	return [16]byte(n)
}

func (r *stmtReader) id(key string, prefix byte) string {
	v := r.value(key)
	if r.err == nil && !validID(v, prefix) {
		r.fail("%s %q is no id", key, v)
	}
	return v
}

func (r *stmtReader) deviceIDs() []deviceID {
	var ids []deviceID
	for _, v := range r.values("device", maxRevokes) {
		if !validID(v, 'd') {
			r.fail("device %q is no id", v)
			return nil
		}
		ids = append(ids, deviceID(v))
	}
	return ids
}

func (r *stmtReader) reason() string {
	v := r.value("reason")
	if r.err == nil && !slices.Contains(revokeReasons, v) {
		r.fail("reason %q is none of %s", v, strings.Join(revokeReasons, ", "))
	}
	return v
}

func (r *stmtReader) name() string {
	v := r.value("name")
	if r.err == nil && !validName(v) {
		r.fail("name %q is not allowed", v)
	}
	return v
}

// keys reads the lines key and path of a device.
func (r *stmtReader) keys() (k publicKeys) {
	typ, text, _ := strings.Cut(r.value("key"), " ")
	blob := r.base64("key", text)
	path := r.base64("path", r.value("path"))
	if r.err != nil {
		return k
	}
	prefix := ssh.Marshal(struct{ Type string }{ssh.KeyAlgoED25519})
	key, ok := strings.CutPrefix(string(blob), string(prefix)+"\x00\x00\x00\x20")
	if typ != ssh.KeyAlgoED25519 || !ok || len(key) != 32 {
		r.fail("key is no ed25519 key")
		return k
	}
	if len(path) != 32 {
		r.fail("path is not 32 bytes")
		return k
	}
	k.sign = []byte(key)
	copy(k.path[:], path)
	return k
}

// withGrant reads what stands behind the keys.
func (o opDeviceAdd) withGrant(r *stmtReader) opDeviceAdd {
	o.grant = r.grant(o.grant.name)
	return o
}

func (r *stmtReader) grant(name string) deviceGrant {
	return deviceGrant{
		name:    name,
		roles:   r.csv("roles", oneOf(deviceRoles)),
		users:   r.users(),
		caps:    r.csv("caps", oneOf(deviceCaps)),
		expires: int64(r.number("expires")),
	}
}

// users reads logins, "*" for any of them, or "-" for none.
func (r *stmtReader) users() []string {
	switch line, _, _ := strings.Cut(r.rest, "\n"); line {
	case "users *":
		return []string{r.value("users")}
	case "users -":
		r.value("users")
		return nil
	}
	return r.csv("users", validLogin)
}

// base64 reads the standard alphabet with padding, in its one encoding.
func (r *stmtReader) base64(key, text string) []byte {
	if r.err != nil {
		return nil
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil || b64(b) != text || len(b) == 0 {
		r.fail("%s %q is not base64", key, text)
		return nil
	}
	return b
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// A signerLine is what a statement says of a signer:
//
//	signer <sid> ssh <powers> <label> <type> <b64 blob>
//	signer <sid> webauthn <powers> <label> <rpId> <origin[,origin]> <b64 credential id> <b64 COSE key>
type signerLine struct {
	id     signerID
	kind   string // signerSSH or signerWebauthn
	powers string // of signerPowers
	label  string // a name
	key    []byte // SSH wire form, or the COSE key

	rpID       string // the rest only for webauthn
	origins    []string
	credential []byte
}

const (
	signerSSH      = "ssh"
	signerWebauthn = "webauthn"
)

// can reports whether the signer has the power 'd', 's' or 'r'.
func (l signerLine) can(power byte) bool { return strings.IndexByte(l.powers, power) >= 0 }

func (r *stmtReader) signerLines() []signerLine {
	var list []signerLine
	for _, v := range r.values("signer", maxSigners) {
		l := r.signerLine(v)
		if n := len(list); n > 0 && list[n-1].id == l.id {
			r.fail("signer %s stands twice", l.id)
		}
		list = append(list, l)
	}
	if r.err != nil {
		return nil
	}
	return list
}

// signerLine reads the value of a signer line. Whether the id fits the key is
// judged when it is applied.
func (r *stmtReader) signerLine(v string) (l signerLine) {
	f := strings.Split(v, " ")
	if r.err != nil {
		return l
	}
	if len(f) < 4 {
		r.fail("signer %q has too few fields", v)
		return l
	}
	l = signerLine{id: signerID(f[0]), kind: f[1], powers: f[2], label: f[3]}
	switch {
	case !validID(f[0], 's'):
		r.fail("signer %q is no id", f[0])
	case !slices.Contains(signerPowers, l.powers):
		r.fail("signer with powers %q, not d, s, ds or r", l.powers)
	case !validName(l.label):
		r.fail("signer with label %q, which is not allowed", l.label)
	case l.kind == signerSSH && len(f) == 6:
		r.sshMaterial(&l, f[4], f[5])
	case l.kind == signerWebauthn && len(f) == 8:
		r.webauthnMaterial(&l, f[4:])
	default:
		r.fail("signer of kind %q with %d fields", l.kind, len(f))
	}
	return l
}

func (r *stmtReader) sshMaterial(l *signerLine, typ, text string) {
	if l.key = r.base64("signer key", text); r.err != nil {
		return
	}
	key, err := parseSSHKeyBlob(l.key)
	if err != nil {
		r.fail("signer %s: %w", l.id, err)
		return
	}
	if key.Type() != typ {
		r.fail("signer %s: type %q for a key of type %s", l.id, typ, key.Type())
	}
}

func (r *stmtReader) webauthnMaterial(l *signerLine, f []string) {
	l.rpID = f[0]
	l.origins = strings.Split(f[1], ",")
	l.credential = r.base64("credential id", f[2])
	l.key = r.base64("COSE key", f[3])
	if !inSet(l.rpID, 253, "abcdefghijklmnopqrstuvwxyz0123456789.-") {
		r.fail("signer %s: relying party %q", l.id, l.rpID)
	}
	for i, o := range l.origins {
		if !inSet(o, 300, "abcdefghijklmnopqrstuvwxyz0123456789.:/-") || i > 0 && l.origins[i-1] >= o {
			r.fail("signer %s: origins %q", l.id, f[1])
		}
	}
	if len(l.credential) > maxCredentialID {
		r.fail("signer %s: credential id of %d bytes", l.id, len(l.credential))
	}
	if r.err != nil {
		return
	}
	key, err := parseCOSE(l.key)
	if err == nil && !bytes.Equal(key.append(nil), l.key) {
		err = errors.New("COSE key in an odd encoding")
	}
	if err != nil {
		r.fail("signer %s: %w", l.id, err)
	}
}

// inSet reports whether s has 1 to max characters, all of them of set.
func inSet(s string, max int, set string) bool {
	if len(s) < 1 || len(s) > max {
		return false
	}
	for i := range len(s) {
		if strings.IndexByte(set, s[i]) < 0 {
			return false
		}
	}
	return true
}

func appendSignerLines(b []byte, list []signerLine) []byte {
	for _, l := range list {
		b = append(append(append(b, "signer "...), l.value()...), '\n')
	}
	return b
}

// value is the inverse of signerLine.
func (l signerLine) value() string {
	head := fmt.Sprintf("%s %s %s %s ", l.id, l.kind, l.powers, l.label)
	if l.kind == signerWebauthn {
		return head + fmt.Sprintf("%s %s %s %s", l.rpID, strings.Join(l.origins, ","), b64(l.credential), b64(l.key))
	}
	key, err := parseSSHKeyBlob(l.key)
	if err != nil {
		return head // no parsed or built line has such a key
	}
	return head + key.Type() + " " + b64(l.key)
}
