//go:build router

package main

// The build for routers has no page on which a passkey could sign.

import (
	"context"
	"errors"
)

const passkeyWord = "-passkey"

type signPage struct{}

var errNoPasskeys = withHint(errors.New("this build is made for routers, and has no page on which a passkey signs"), "sign on a machine with the full one, or with -key")

func (*acting) passkeysOf(context.Context, []byte) (stmtSigner, error) { return nil, errNoPasskeys }

func (*program) newPasskey(context.Context, string, string, []signer) (stmtSigner, signerLine, error) {
	return nil, signerLine{}, errNoPasskeys
}

func (*program) endPage(error) {}
