//go:build !router

package main

// This file hands out builds of this program from a directory: a script that
// installs one of them (/i/SET), and the builds (/b/SHA256/NAME). What a
// machine gets is what the script's set says or an error, whatever changes in
// the directory meanwhile.

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	// maxBuilds is how many there may be: three times what testdata/cross.sh makes.
	maxBuilds = 32
	// maxBuildName bounds a build's name, in bytes.
	maxBuildName = 48
	// buildsLook is how old what is known of the directory may be.
	buildsLook = time.Second
	// maxSending bounds the downloads at once: each has a chunk in the kernel.
	maxSending = 32
	// sendChunk, in bytes, has sendWait to leave: 17 kbit/s are enough.
	sendChunk = 64 << 10
	sendWait  = 30 * time.Second
)

// The script, with @URL@, @SET@ and @BUILDS@ in it.
//
//go:embed page/install.sh
var installScript string

// A build is a program that can be fetched.
type build struct {
	name string
	size int64
	sum  string      // SHA-256 in hex
	file os.FileInfo // what was hashed
}

// path is where it is fetched, below the public address.
func (b *build) path() string { return "/b/" + b.sum + "/" + b.name }

// A buildSet is what a directory holds, and its name; "" = nothing.
type buildSet struct {
	id     string
	builds []build // by name
}

// A buildDir is the directory of -binaries.
type buildDir struct {
	dir, url string // url is public, from parsePublicURL
	now      func() time.Time
	logf     func(format string, args ...any)
	sending  chan struct{}

	mu     sync.Mutex
	looked time.Time // guarded by mu
	set    buildSet  // guarded by mu: replaced, never changed
	said   string    // guarded by mu: the last error that was logged
}

// openBuildDir reads the directory. url is the flag -url.
func openBuildDir(dir, url string, now func() time.Time, logf func(string, ...any)) (*buildDir, error) {
	clean, err := parsePublicURL(url)
	if err != nil {
		return nil, usageError("-url, which the lines for new machines begin with: %w", err)
	}
	b := &buildDir{dir: dir, url: clean, now: now, logf: logf, sending: make(chan struct{}, maxSending), looked: now()}
	if b.set, err = readBuilds(dir, nil); err == nil && b.set.id == "" {
		err = errors.New("no file in it is called sessio-linux-…")
	}
	if err != nil {
		return nil, withHint(fmt.Errorf("-binaries %s: %w", dir, err), "make cross leaves the builds in dist/")
	}
	return b, nil
}

// current is the set as it is now. Files that have not changed are not read
// again. An error leaves the set that was.
func (b *buildDir) current() buildSet {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if age := now.Sub(b.looked); age >= 0 && age < buildsLook {
		return b.set
	}
	b.looked = now
	said := ""
	if set, err := readBuilds(b.dir, b.set.builds); err == nil {
		b.set = set
	} else {
		said = err.Error()
	}
	if said != b.said && said != "" {
		b.logf("-binaries %s: %s", b.dir, said)
	}
	b.said = said
	return b.set
}

// told is what devices are told: public address and set, of which installLines
// makes the line to paste.
func (b *buildDir) told() (url, set string) { return b.url, b.current().id }

// readBuilds reads a directory; known are builds of before.
func readBuilds(dir string, known []build) (set buildSet, err error) {
	entries, err := os.ReadDir(dir) // in order
	if err != nil {
		return set, err
	}
	var manifest strings.Builder
	for _, e := range entries {
		tail, ok := strings.CutPrefix(e.Name(), "sessio-")
		if !ok || len(tail) > maxBuildName || strings.Trim(tail, "abcdefghijklmnopqrstuvwxyz0123456789.-") != "" {
			continue
		}
		if len(set.builds) == maxBuilds {
			return buildSet{}, fmt.Errorf("more than %d builds", maxBuilds)
		}
		f, err := hashBuild(dir, e.Name(), known)
		if err != nil {
			return buildSet{}, err
		}
		set.builds = append(set.builds, f)
		fmt.Fprintf(&manifest, "%s %s\n", f.name, f.sum)
	}
	if len(set.builds) > 0 {
		set.id = buildSetID(manifest.String())
	}
	return set, nil
}

func hashBuild(dir, name string, known []build) (build, error) {
	f, info, err := openBuild(dir, name)
	if err != nil {
		return build{}, err
	}
	defer f.Close()
	for _, k := range known {
		if k.name == name && sameBuild(k.file, info) {
			return k, nil
		}
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return build{}, err
	}
	after, err := f.Stat()
	if err == nil && !sameBuild(info, after) {
		err = fmt.Errorf("%s changes while it is read", name)
	}
	return build{name, info.Size(), hex.EncodeToString(h.Sum(nil)), info}, err
}

func openBuild(dir, name string) (*os.File, os.FileInfo, error) {
	file := filepath.Join(dir, name)
	info, err := os.Stat(file) // to open a FIFO would wait
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", name)
	}
	if err != nil {
		return nil, nil, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, err
	}
	if info, err = f.Stat(); err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// sameBuild reports whether nothing says that a file was changed.
func sameBuild(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// ServeHTTP answers GET and HEAD below /i/ and /b/.
func (b *buildDir) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	set := b.current()
	if id, ok := strings.CutPrefix(r.URL.Path, "/i/"); ok && id == set.id && id != "" {
		writePlain(w, set.script(b.url))
		return
	}
	for _, f := range set.builds {
		if r.URL.Path == f.path() {
			b.send(w, f)
			return
		}
	}
	// A shell that is given this in the place of a script has nothing to do.
	http.Error(w, "# This is not here, or not any more: the coordinator's builds have changed.\n# The line of a new ticket is right: sessio ticket", http.StatusNotFound)
}

// script is what a shell is given.
func (s buildSet) script(url string) string {
	var builds strings.Builder
	for _, f := range s.builds {
		fmt.Fprintf(&builds, "%s %d %s\n", f.name, f.size, f.sum)
	}
	return strings.NewReplacer("@URL@", url, "@SET@", s.id, "@BUILDS@", strings.TrimSuffix(builds.String(), "\n")).Replace(installScript)
}

// send gives one build, as long as somebody takes it.
func (b *buildDir) send(w http.ResponseWriter, want build) {
	select {
	case b.sending <- struct{}{}:
		defer func() { <-b.sending }()
	default:
		w.Header().Set("Retry-After", "60")
		http.Error(w, "# too many downloads at once: try again in a minute", http.StatusServiceUnavailable)
		return
	}
	f, info, err := openBuild(b.dir, want.name)
	if err != nil || !sameBuild(want.file, info) {
		if err == nil {
			f.Close()
		}
		http.Error(w, "# the coordinator's builds change right now: make a new ticket", http.StatusNotFound)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", fmt.Sprint(want.size))
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable") // the hash is in the path
	out := http.NewResponseController(w)
	for left := want.size; left > 0; left -= sendChunk {
		out.SetWriteDeadline(time.Now().Add(sendWait)) // else the whole of it had the server's own
		if _, err := io.CopyN(w, f, min(left, sendChunk)); err != nil {
			return // the client has gone, or the file was cut: the length tells it
		}
	}
}
