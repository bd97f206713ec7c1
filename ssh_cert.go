package main

// This file judges user certificates: OpenSSH's PROTOCOL.certkeys. It knows no
// file, socket or clock.

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// What a certificate may demand. Whatever else is critical refuses it.
const (
	certCommand = "force-command"
	certSource  = "source-address"
	certNoTouch = "no-touch-required"
)

// judgeCert decides whether a certificate signed by the line's key lets q in,
// and narrows l to what both line and certificate allow.
func (l *keyLine) judgeCert(cert *ssh.Certificate, q keyQuestion) error {
	switch {
	case cert.CertType != ssh.UserCert:
		return errors.New("not the certificate of a user")
	case !slices.Contains(userKeyAlgos, cert.Signature.Format):
		return fmt.Errorf("the certificate is signed with %s", cert.Signature.Format)
	case len(cert.ValidPrincipals) == 0:
		// To the library, as to old OpenSSH, such a one is good for everybody.
		return errors.New("the certificate names no principals")
	}
	if err := checkRSASize(cert.Key); err != nil {
		return err
	}
	principal := q.user
	if l.principals != nil {
		i := slices.IndexFunc(cert.ValidPrincipals, func(p string) bool { return slices.Contains(l.principals, p) })
		if i < 0 {
			return fmt.Errorf("none of the certificate's principals %.200q is among the line's", cert.ValidPrincipals)
		}
		principal = cert.ValidPrincipals[i]
	}
	check := ssh.CertChecker{SupportedCriticalOptions: []string{certCommand, certSource}, Clock: func() time.Time { return q.now }}
	if err := check.CheckCert(principal, cert); err != nil {
		return err
	}
	return l.narrow(cert, q.from)
}

// narrow applies the options of a certificate that is valid. What it does not
// permit is withheld.
func (l *keyLine) narrow(cert *ssh.Certificate, from netip.Addr) error {
	if list, ok := cert.CriticalOptions[certSource]; ok {
		nets, err := parseFrom(list)
		if err != nil || slices.ContainsFunc(nets, func(p fromPattern) bool { return p.not || p.glob != "" }) {
			return errors.New("the certificate's addresses cannot be read")
		}
		if !fromAllows(nets, from) {
			return fmt.Errorf("the certificate is not for %s", from)
		}
	}
	if command, ok := cert.CriticalOptions[certCommand]; ok {
		if l.command != nil && *l.command != command {
			return errors.New("the certificate and the line force different commands")
		}
		l.command = &command
	}
	has := func(extension string) bool { _, ok := cert.Extensions[extension]; return ok }
	l.noPty = l.noPty || !has("permit-pty")
	l.noForward = l.noForward || !has("permit-port-forwarding")
	l.noAgent = l.noAgent || !has("permit-agent-forwarding")
	// The library takes the certificate's word that no touch is needed; sshd
	// wants the line's as well.
	if !l.noTouch && has(certNoTouch) && strings.HasPrefix(cert.Key.Type(), "sk-") {
		return errors.New("the certificate asks for no touch, which the line does not allow")
	}
	l.noTouch = l.noTouch && has(certNoTouch)
	return nil
}
