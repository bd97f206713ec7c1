package main

// This file has the texts of UPnP-IGD: the search for a router (SSDP), HTTP, as
// much of XML as device descriptions need, and SOAP. The router may be
// hostile: what it sends is bounded, and no address but its own is taken.

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

const (
	// maxUPnP bounds an HTTP answer, head and body, in bytes.
	maxUPnP = 64 << 10
	// maxUPnPServices bounds the services of one description that are tried.
	maxUPnPServices = 4
)

// SOAP faults that are not the end: UPnP WANIPConnection:1, section 2.4.16.
const (
	upnpInvalidArgs      = 402
	upnpConflict         = 718
	upnpOnlyPermanent    = 725
	upnpConflictInStatic = 729 // WANIPConnection:2
)

// upnpSearches are what a router is searched by; not each answers to each.
var upnpSearches = []string{"urn:schemas-upnp-org:device:InternetGatewayDevice:1",
	"urn:schemas-upnp-org:device:InternetGatewayDevice:2", "upnp:rootdevice"}

// upnpServices are the services that map ports, the best first.
var upnpServices = []string{upnpWANIP2, "urn:schemas-upnp-org:service:WANIPConnection:1", "urn:schemas-upnp-org:service:WANPPPConnection:1"}

const upnpWANIP2 = "urn:schemas-upnp-org:service:WANIPConnection:2"

// appendSearch asks for devices: UPnP Device Architecture 1.1, section 1.3.
// They may answer within a second.
func appendSearch(b []byte, target string) []byte {
	return fmt.Appendf(b, "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: %s\r\n\r\n", target)
}

// A upnpURL is a place at the router. Its path has no blank and no control
// character.
type upnpURL struct {
	host netip.AddrPort
	path string
}

// parseSearchAnswer reads where the router's description lies.
func parseSearchAnswer(b []byte, router netip.Addr) (upnpURL, error) {
	if status, err := httpStatus(string(b)); err != nil || status != 200 {
		return upnpURL{}, fmt.Errorf("no answer to a search: status %d, %v", status, err)
	}
	return upnpURL{netip.AddrPortFrom(router, 80), "/"}.parse(headerValue(string(b), "location"))
}

// parse reads a URL that may be relative to u. Another host than u's is
// refused: a router shall not make us talk to others.
func (u upnpURL) parse(ref string) (upnpURL, error) {
	refuse := func(why string) (upnpURL, error) {
		return upnpURL{}, fmt.Errorf("address %.100q: %s", ref, why)
	}
	rest, absolute := strings.CutPrefix(ref, "http://")
	path := rest
	if absolute {
		i := strings.IndexByte(rest+"/", '/')
		host := rest[:i]
		if !strings.Contains(host, ":") {
			host += ":80"
		}
		at, err := netip.ParseAddrPort(host)
		if err != nil || at.Addr() != u.host.Addr() || at.Port() == 0 {
			return refuse("not at the router")
		}
		u.host, path = at, rest[i:]
	}
	switch {
	case absolute && path == "":
		path = "/"
	case path == "":
		return refuse("empty")
	case path[0] != '/':
		path = u.path[:strings.LastIndexByte(u.path, '/')+1] + path
	}
	if len(path) > 1024 || path[0] != '/' || strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return refuse("not a path")
	}
	return upnpURL{u.host, path}, nil
}

// httpStatus reads the number in the first line of an answer.
func httpStatus(head string) (int, error) {
	line, _, _ := strings.Cut(head, "\n")
	version, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	number, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || !strings.HasPrefix(version, "HTTP/1.") {
		return 0, errors.New("no HTTP answer")
	}
	return int(n), nil
}

// headerValue is the first field of a name, in lower case, or "".
func headerValue(head, name string) string {
	_, head, _ = strings.Cut(head, "\n")
	for line := range strings.Lines(head) {
		key, value, _ := strings.Cut(line, ":")
		if strings.EqualFold(strings.TrimSpace(key), name) {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// readHTTP reads an answer of at most maxUPnP bytes.
func readHTTP(r io.Reader) (status int, body []byte, err error) {
	in := bufio.NewReader(io.LimitReader(r, maxUPnP))
	head, err := readHTTPHead(in)
	if err != nil {
		return 0, nil, err
	}
	if status, err = httpStatus(head); err != nil {
		return 0, nil, err
	}
	length := headerValue(head, "content-length")
	switch {
	case strings.EqualFold(headerValue(head, "transfer-encoding"), "chunked"):
		body, err = readChunks(in)
	case length != "":
		n, bad := strconv.ParseUint(length, 10, 31)
		if bad != nil || n > maxUPnP {
			return 0, nil, fmt.Errorf("an answer of %.20q bytes, at most %d", length, maxUPnP)
		}
		body, err = io.ReadAll(io.LimitReader(in, int64(n)))
		if err == nil && len(body) != int(n) {
			err = io.ErrUnexpectedEOF
		}
	default:
		body, err = io.ReadAll(in)
	}
	return status, body, err
}

// readHTTPHead reads up to the empty line.
func readHTTPHead(in *bufio.Reader) (string, error) {
	var head []byte
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return "", err
		}
		if len(bytes.TrimSpace(line)) == 0 {
			return string(head), nil
		}
		head = append(head, line...)
	}
}

// readChunks reads a body in chunks: RFC 9112, section 7.1.
func readChunks(in *bufio.Reader) ([]byte, error) {
	var body bytes.Buffer
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return nil, err
		}
		size, _, _ := strings.Cut(strings.TrimSpace(line), ";")
		n, err := strconv.ParseUint(strings.TrimSpace(size), 16, 31)
		if err != nil {
			return nil, fmt.Errorf("a chunk of %.20q bytes", size)
		}
		if n == 0 {
			return body.Bytes(), nil
		}
		if _, err := io.CopyN(&body, in, int64(n)); err != nil {
			return nil, err
		}
		if _, err := in.ReadString('\n'); err != nil {
			return nil, err
		}
	}
}

// eachElement calls f at the end of each element, with its name and, when
// there is nothing but text in it, that text. It is no judge of XML: it makes
// what it can of anything.
func eachElement(doc []byte, f func(name, text string)) {
	unescape := strings.NewReplacer("&lt;", "<", "&gt;", ">", "&quot;", `"`, "&apos;", "'", "&amp;", "&")
	open, text, rest := "", "", string(doc)
	for {
		var tag string
		var ok bool
		if text, rest, ok = strings.Cut(rest, "<"); !ok {
			return
		}
		if comment, in := strings.CutPrefix(rest, "!--"); in {
			_, rest, _ = strings.Cut(comment, "-->")
			open = ""
			continue
		}
		if tag, rest, ok = strings.Cut(rest, ">"); !ok {
			return
		}
		name, ends := strings.CutPrefix(tag, "/")
		name, empty := strings.CutSuffix(name, "/")
		if i := strings.IndexAny(name, " \t\r\n"); i >= 0 {
			name = name[:i]
		}
		name = name[strings.IndexByte(name, ':')+1:]
		switch {
		case empty:
			f(name, "")
		case !ends:
			open = name
			continue
		case open == name:
			f(name, unescape.Replace(strings.TrimSpace(text)))
		default:
			f(name, "")
		}
		open = ""
	}
}

// A upnpService is one that maps ports, by its type.
type upnpService struct {
	kind    string
	control upnpURL
}

// parseDescription finds the services of a router that map ports, the best
// first, in the description that lies at u.
func parseDescription(doc []byte, u upnpURL) (found []upnpService) {
	var kind, control string
	eachElement(doc, func(name, text string) {
		switch name {
		case "URLBase":
			if base, err := u.parse(text); err == nil {
				u = base
			}
		case "serviceType":
			kind = text
		case "controlURL":
			control = text
		case "service":
			at, err := u.parse(control)
			if err == nil && len(found) < maxUPnPServices && slices.Contains(upnpServices, kind) {
				found = append(found, upnpService{kind, at})
			}
			kind, control = "", ""
		}
	})
	slices.SortStableFunc(found, func(a, b upnpService) int {
		return slices.Index(upnpServices, a.kind) - slices.Index(upnpServices, b.kind)
	})
	return found
}

// appendGet asks for a description.
func appendGet(b []byte, u upnpURL) []byte {
	return fmt.Appendf(b, "GET %s HTTP/1.1\r\nHost: %v\r\nConnection: close\r\n\r\n", u.path, u.host)
}

// appendSOAP calls an action of a service. Names and values alternate in args
// and stand as they are: none of ours needs an escape.
func appendSOAP(b []byte, s upnpService, action string, args ...string) []byte {
	var in strings.Builder
	for i := 0; i+1 < len(args); i += 2 {
		fmt.Fprintf(&in, "<%s>%s</%s>", args[i], args[i+1], args[i])
	}
	body := fmt.Sprintf(`<?xml version="1.0"?>`+"\r\n"+`<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>`+
		`<u:%s xmlns:u="%s">%s</u:%s></s:Body></s:Envelope>`, action, s.kind, &in, action)
	return fmt.Appendf(b, "POST %s HTTP/1.1\r\nHost: %v\r\nContent-Type: text/xml; charset=\"utf-8\"\r\nContent-Length: %d\r\nSOAPAction: \"%s#%s\"\r\nConnection: close\r\n\r\n%s",
		s.control.path, s.control.host, len(body), s.kind, action, body)
}

// A upnpFault is a router's refusal.
type upnpFault struct {
	code int
	text string // the router's words, printable, at most 80 bytes
}

func (e *upnpFault) Error() string { return fmt.Sprintf("the router refuses: %s (%d)", e.text, e.code) }

// parseSOAP reads what an action gave back: the text of the element wanted.
func parseSOAP(status int, body []byte, wanted string) (string, error) {
	var fault upnpFault
	value := ""
	eachElement(body, func(name, text string) {
		switch name {
		case "errorCode":
			if n, err := strconv.ParseUint(text, 10, 16); err == nil {
				fault.code = int(n)
			}
		case "errorDescription":
			fault.text = printable(text[:min(len(text), 80)])
		case wanted:
			value = text
		}
	})
	switch {
	case fault.code != 0:
		return "", &fault
	case status != 200:
		return "", fmt.Errorf("the router answers with HTTP status %d", status)
	}
	return value, nil
}
