//go:build !router

package main

// This file is what the two pages have in common, the one that this program
// serves for passkeys and the coordinator's: what a browser may do with them,
// answers in JSON, bytes in base64url.

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"io"
	"net/http"
	"slices"
)

//go:embed page/page.css
var pageCSS []byte

//go:embed page/passkey.js
var passkeyJS []byte

// maxPageBody bounds one answer of a passkey in bytes: a registration in base64.
const maxPageBody = 2 * (maxAttestation + maxClientData)

// A pageFile is one that is served as it is.
type pageFile struct {
	kind string // media type
	body []byte
}

func servePageFile(w http.ResponseWriter, files map[string]pageFile, name string) {
	f, ok := files[name]
	if !ok {
		http.Error(w, "There is nothing here.", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", f.kind)
	w.Write(f.body) // an error means that the browser has gone
}

// pagePolicy lets the page load what is its own, and nothing show it in a frame.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

func pageHeaders(w http.ResponseWriter) {
	for k, v := range map[string]string{"Content-Security-Policy": pagePolicy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
		"Cache-Control": "no-store", "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin"} {
		w.Header().Set(k, v)
	}
}

// A pageAnswer is what the browser sends: a claim, until it has been checked.
type pageAnswer struct {
	N           int    `json:"n"` // of the step on the page that this program serves
	ID          string `json:"id"`
	ClientData  string `json:"clientData"`
	Attestation string `json:"attestation"`
	AuthData    string `json:"authData"`
	Signature   string `json:"signature"`
	User        string `json:"user"`
}

// A pageErrorOut is why not, for the page to show.
type pageErrorOut struct {
	Error string `json:"error"`
	Code  string `json:"code,omitempty"`
	Hint  string `json:"hint,omitempty"`
}

func pageError(w http.ResponseWriter, status int, err error) {
	pageJSON(w, status, pageErrorOut{err.Error(), codeOf(err), hintOf(err)})
}

func pageJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // an error means that the browser has gone
}

// unb64url reads each text, in order; an error names nothing, for it is shown.
func unb64url(texts ...string) (out [][]byte, err error) {
	for _, t := range texts {
		b, err := b64url.DecodeString(t)
		if err != nil {
			return nil, coded("request-malformed", "the answer is not in base64url")
		}
		out = append(out, b)
	}
	return out, nil
}

func writePlain(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	io.WriteString(w, text) // an error means that the client has gone
}

// signerName is what a passkey that signs is called where people choose one.
func signerName(label string) string { return label + " – ADD OR REMOVE DEVICES" }

// sigOfAnswer is a passkey's answer as the signature of one of these signers.
// Nothing is checked but whose it says it is.
func sigOfAnswer(a pageAnswer, lines []signerLine) (sig recordSig, err error) {
	parts, err := unb64url(a.ID, a.AuthData, a.ClientData, a.Signature)
	if err != nil {
		return sig, err
	}
	i := slices.IndexFunc(lines, func(l signerLine) bool { return l.kind == signerWebauthn && bytes.Equal(l.credential, parts[0]) })
	if i < 0 {
		return sig, withHint(coded("no-power", "this passkey is no signer of the account"), "choose the one that is called “… – ADD OR REMOVE DEVICES”")
	}
	return recordSig{lines[i].id, signerWebauthn, parts[1:]}, nil
}
