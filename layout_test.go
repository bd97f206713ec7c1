package main

// This test is the plan of the program: the order of its files, who may import
// what, and how long a file may be.

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// layout lists the files from the ground up. A file uses only what is declared
// in itself and above it; files on one line belong together and know each
// other. A name stands for its variants as well: "udp" for udp.go,
// udp_linux.go and udp_other.go.
var layout = []string{
	// what all else stands on
	"errs", "self", "ids", "install_line", "fields", "os lock", "flatfile", "identity",
	// the trust log: bytes, state, disk, exchange
	"cose", "webauthn", "sshsig trust_ops trust_stmt", "trust trust_rules", "trust_build trust_say", "trust_fork", "trust_store trust_load", "trust_exchange",
	// datagrams, sockets, paths
	"wire_fields", "wire", "wire_path", "wire_seal", "wire_box", "udp_source", "udp udp_extra", "candidates", "portmap_wire", "portmap_text", "portmap_ask portmap", "reached", "punch punch_tries punch_watch punch_rank punch_hard", "coord_talk", "natkind", "netwatch",
	// the SSH server
	"config_yaml config_scalar", "filter filter_glob filter_read", "sftp_wire", "shell_words", "scp_wire scp_words", "grpc_wire", "audit audit_file audit_net audit_otlp", "config", "gate", "ssh_wire", "ssh_status", "ssh_account", "files files_walk files_open", "sftp sftp_pace sftp_text", "scp", "ssh_password", "ssh_keysfile ssh_cert ssh_auth", "ssh_command", "ssh_child", "ssh_net ssh_netchild", "ssh_permit", "ssh_session ssh_files ssh_audit ssh_banner ssh_forward ssh_listen sshserve ssh_admit ssh_watch sshport",
	// what verbs and coordinator say to each other
	"coord_presence coord_online coord_introduce coord_echo coord_wire", "coord_client",
	// links
	"names", "stream", "peers", "link", "node node_handshakes", "node_fetch", "node_paths", "node_links", "connect", "node_run", "node_status", "lend", "config_files config_keys config_load", "device",
	// the coordinator
	"web", "coord_store coord_owner coord_session coord_requests coord_revoke", "coord_stream", "coord_install coord_web coord_signin coord_acts coord_views", "coord_acme", "coord_certs", "coord_tls", "coord_http", "coord_sockets", "coord_page coord",
	// the verbs
	"term ssh_client client_session client_tty", "client_grant", "client", "passkey_page", "cli", "client_act client_passkey", "client_run", "client_socks client_forward client_forward_spec client_forward_listen client_forward_back client_forward_behind client_forward_home",
	"client_sign", "install", "client_account", "client_trust", "client_signers", "client_status", "client_sessions", "sftp_client sftp_stream client_cp client_cp_side client_cp_local client_cp_remote client_cp_copy client_cp_bar client_cp_tree client_sftp client_sftp_do", "client_forward_list", "netcheck netcheck_report", "client_netcheck", "client_keys", "client_config", "sftpd", "roles client_install main",
}

// importers names, for a package that few files may know, those files.
var importers = map[string][]string{
	"net/http":    {"web", "coord_web", "coord_views", "coord_http", "coord_install", "coord_acme", "passkey_page", "audit_otlp"},
	"os/exec":     {"ssh_child"},
	"crypto/x509": {"identity", "client_act", "coord_acme", "coord_certs", "audit_net"}, // certificates; a wrong passphrase
}

// forbidden are packages that no file imports, with the reason.
var forbidden = map[string]string{
	"text/template": "switches off dead-code removal: 1.9 MB",
	"html/template": "switches off dead-code removal: 2.3 MB",
	"regexp":        "0.2 MB",
	"log/slog":      "0.26 MB; errs.go writes lines",
	"log":           "errs.go writes lines",
	"encoding/xml":  "reflection that we have no need for",
	"encoding/gob":  "reflection that we have no need for",
	"unsafe":        "x/sys has what we need",
}

// maxLines is the longest that any file may be, tests included.
const maxLines = 600

// sourceFiles are the files of the program, or its tests.
func sourceFiles(t *testing.T, tests bool) []string {
	t.Helper()
	all, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(f string) bool { return strings.HasSuffix(f, "_test.go") != tests })
}

// layoutPlaces maps each file to its line in the layout.
func layoutPlaces(t *testing.T) map[string]int {
	t.Helper()
	files := sourceFiles(t, false)
	places := map[string]int{}
	for i, line := range layout {
		for name := range strings.FieldsSeq(line) {
			found := false
			for _, f := range files {
				if f == name+".go" || isVariant(f, name) {
					if _, twice := places[f]; twice {
						t.Errorf("%s stands twice in the layout", f)
					}
					places[f], found = i, true
				}
			}
			if !found {
				t.Errorf("the layout names %q, and there is no such file", name)
			}
		}
	}
	for _, f := range files {
		if _, ok := places[f]; !ok {
			t.Errorf("%s is missing in the layout", f)
		}
	}
	return places
}

// isVariant reports whether f is name for some systems: name_linux.go.
func isVariant(f, name string) bool {
	tail, ok := strings.CutPrefix(strings.TrimSuffix(f, ".go"), name+"_")
	return ok && slices.Contains([]string{"linux", "darwin", "bsd", "unix", "windows", "other", "router"}, tail)
}

func TestLayoutOrder(t *testing.T) {
	t.Parallel()
	places := layoutPlaces(t)
	for _, goos := range []string{"linux", "darwin", "windows"} {
		for _, use := range layoutUses(t, goos) {
			if places[use.from] < places[use.to] {
				t.Errorf("%s: %s uses %s of %s, which stands below it", goos, use.at, use.name, use.to)
			}
		}
	}
}

// A layoutUse is one file's first use of what another declares.
type layoutUse struct {
	from, to string // files
	name, at string
}

// layoutUses resolves identifiers as the compiler does for a system. Imports
// are empty here: what they declare does not matter.
func layoutUses(t *testing.T, goos string) []layoutUse {
	t.Helper()
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range sourceFiles(t, false) {
		f, err := parser.ParseFile(fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if builtFor(name, f, goos) {
			files = append(files, f)
		}
	}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	conf := types.Config{Importer: noImports{}, Error: func(error) {}}
	pkg, _ := conf.Check("main", fset, files, info)
	type edge struct{ from, to string }
	first := map[edge]layoutUse{}
	for id, obj := range info.Uses {
		if obj.Pkg() != pkg || !obj.Pos().IsValid() {
			continue
		}
		at, decl := fset.Position(id.Pos()), fset.Position(obj.Pos())
		e := edge{at.Filename, decl.Filename}
		use := layoutUse{e.from, e.to, id.Name, fmt.Sprintf("%s:%d", at.Filename, at.Line)}
		if old, ok := first[e]; e.from != e.to && (!ok || use.at < old.at) {
			first[e] = use
		}
	}
	return slices.SortedFunc(maps.Values(first), func(a, b layoutUse) int { return strings.Compare(a.at+a.to, b.at+b.to) })
}

// noImports gives every import an empty package.
type noImports struct{}

func (noImports) Import(path string) (*types.Package, error) {
	p := types.NewPackage(path, filepath.Base(path))
	p.MarkComplete()
	return p, nil
}

// builtFor reports whether a file belongs to the program on goos.
func builtFor(name string, f *ast.File, goos string) bool {
	tags := func(tag string) bool {
		return tag == goos || tag == "amd64" || tag == "unix" && goos != "windows"
	}
	base := strings.TrimSuffix(name, ".go")
	for _, other := range []string{"linux", "darwin", "windows"} {
		if strings.HasSuffix(base, "_"+other) && other != goos {
			return false
		}
	}
	for _, group := range f.Comments {
		for _, c := range group.List {
			if !constraint.IsGoBuild(c.Text) {
				continue
			}
			expr, err := constraint.Parse(c.Text)
			return err == nil && expr.Eval(tags)
		}
	}
	return true
}

func TestLayoutImports(t *testing.T) {
	for _, name := range sourceFiles(t, false) {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, imp := range f.Imports {
			path := strings.Trim(imp.Path.Value, `"`)
			if why := forbidden[path]; why != "" {
				t.Errorf("%s imports %s: %s", name, path, why)
			}
			allowed, few := importers[path]
			if few && !slices.ContainsFunc(allowed, func(a string) bool { return name == a+".go" || isVariant(name, a) }) {
				t.Errorf("%s imports %s, which only %v may", name, path, allowed)
			}
		}
	}
}

func TestLayoutLength(t *testing.T) {
	for _, name := range append(sourceFiles(t, false), sourceFiles(t, true)...) {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(b, []byte("\n")); n > maxLines {
			t.Errorf("%s has %d lines, at most %d", name, n, maxLines)
		}
	}
}
