package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParsePublicURL(t *testing.T) {
	for s, want := range map[string]string{
		"https://coord.example.com":         "https://coord.example.com",
		"https://Coord.Example.com:8443/":   "https://coord.example.com:8443",
		"http://192.0.2.1:8080/a/b_c-D.e//": "http://192.0.2.1:8080/a/b_c-D.e",
		"http://[2001:db8::1]":              "http://[2001:db8::1]",
		"http://[2001:DB8::1]:80/x":         "http://[2001:db8::1]:80/x",
	} {
		if got, err := parsePublicURL(s); got != want || err != nil {
			t.Errorf("%q: %q, %v", s, got, err)
		}
	}
	for _, s := range []string{
		"", "coord.example.com", "ftp://a", "https://", "https:///x", "https://a b", "https://a/$(id)", "https://a/`id`", "https://a/x;id",
		"https://a/x y", "https://a/x\ny", "https://a/'", "https://a|b", "https://u@a", "https://a:0", "https://a:x", "https://a?q", "https://a/x?q=1",
		"https://a/#f", "https://a/../b", "https://-a", "https://[fe80::1%25lo]", "https://a/" + strings.Repeat("x", maxPublicURL), "HTTPS://a", "https://a/%41",
	} {
		if got, err := parsePublicURL(s); err == nil {
			t.Errorf("%q is taken as %q", s, got)
		}
	}
}

func FuzzParsePublicURL(f *testing.F) {
	f.Add("https://coord.example.com:8443/a")
	f.Add("http://[::1]/")
	f.Fuzz(func(t *testing.T, s string) {
		url, err := parsePublicURL(s)
		if err != nil {
			return
		}
		if strings.Trim(url, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/:[]") != "" {
			t.Fatalf("%q has other characters", url)
		}
		if again, err := parsePublicURL(url); err != nil || again != url {
			t.Fatalf("%q, parsed again: %q, %v", url, again, err)
		}
	})
}

// A coordinator could answer anything: what could run a command here is not printed.
func TestInstallLinesAreSafeToPaste(t *testing.T) {
	lines := installLines("https://a:1/p/", "abcdefghij234567", "s1/x")
	if want := "curl -fsSL https://a:1/p/i/abcdefghij234567 | sh -s -- s1/x;wget -qO- https://a:1/p/i/abcdefghij234567 | sh -s -- s1/x"; strings.Join(lines, ";") != want {
		t.Errorf("got %q", lines)
	}
	for _, c := range [][2]string{{"https://a/;id", "abcdefghij234567"}, {"https://a", "abcdefghij23456;"}, {"https://a", ""}, {"", ""}, {"https://a", "abcdefghij2345678"}} {
		if lines := installLines(c[0], c[1], "s1/x"); lines != nil {
			t.Errorf("%q: %q", c, lines)
		}
	}
}

// A testBuilds is a directory of builds that is served, with a clock that the test moves.
type testBuilds struct {
	*buildDir
	t    *testing.T
	at   time.Time
	said []string
	url  string
}

func newTestBuilds(t *testing.T, files map[string]string) *testBuilds {
	t.Helper()
	b := &testBuilds{t: t, at: time.Unix(1_800_000_000, 0)}
	dir := t.TempDir()
	for name, text := range files {
		b.put(dir, name, text)
	}
	// The handler is known only when its address is.
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { b.ServeHTTP(w, r) }))
	t.Cleanup(srv.Close)
	b.url = srv.URL
	var err error
	b.buildDir, err = openBuildDir(dir, srv.URL, func() time.Time { return b.at }, func(format string, args ...any) {
		b.said = append(b.said, fmt.Sprintf(format, args...))
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// put replaces a build, by a new file.
func (b *testBuilds) put(dir, name, text string) {
	b.t.Helper()
	if err := replaceFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *testBuilds) get(method, path string) (status int, body string, head http.Header) {
	b.t.Helper()
	req, err := http.NewRequest(method, b.url+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return res.StatusCode, string(text), res.Header
}

const (
	oneSum = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed" // of "one"
	twoSum = "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3"
)

// The set's name was made with Python's hashlib and base64.
func TestBuildsAreHandedOut(t *testing.T) {
	b := newTestBuilds(t, map[string]string{"sessio-linux-mipsle": "two", "sessio-linux-amd64": "one",
		"README": "no", ".sessio-linux-arm64.tmp1": "no", "sessio-Linux": "no", "sessio-a b": "no"})
	if url, set := b.told(); url != b.url || set != "kcfu4rl53vsa6qnq" {
		t.Errorf("told %q %q", url, set)
	}
	status, script, head := b.get("GET", "/i/kcfu4rl53vsa6qnq")
	if status != 200 || !strings.HasPrefix(head.Get("Content-Type"), "text/plain") || head.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("script: %d %v", status, head)
	}
	for _, want := range []string{"url='" + b.url + "'\n", "set_id='kcfu4rl53vsa6qnq'\n",
		"builds='sessio-linux-amd64 3 " + oneSum + "\nsessio-linux-mipsle 3 " + twoSum + "'\n"} {
		if !strings.Contains(script, want) {
			t.Errorf("the script lacks %q", want)
		}
	}
	if strings.Contains(script, "@URL@") || strings.Contains(script, "@SET@") || strings.Contains(script, "@BUILDS@") {
		t.Error("the script has a gap")
	}
	status, body, head := b.get("GET", "/b/"+oneSum+"/sessio-linux-amd64")
	if status != 200 || body != "one" || head.Get("Content-Length") != "3" || !strings.Contains(head.Get("Cache-Control"), "immutable") {
		t.Errorf("build: %d %q %v", status, body, head)
	}
	if status, body, head = b.get("HEAD", "/b/"+twoSum+"/sessio-linux-mipsle"); status != 200 || body != "" || head.Get("Content-Length") != "3" {
		t.Errorf("its head: %d %q %v", status, body, head)
	}
	for _, path := range []string{"/i/", "/i/aaaaaaaaaaaaaaaa", "/b/", "/b/" + oneSum + "/sessio-linux-mipsle", "/b/" + oneSum + "/README",
		"/b/" + oneSum + "/../sessio-linux-amd64", "/b/sessio-linux-amd64", "/i/kcfu4rl53vsa6qnq/"} {
		status, body, _ := b.get("GET", path)
		if status != 404 {
			t.Errorf("%s: status %d", path, status)
		}
		for line := range strings.Lines(body) { // what a shell would do with it
			if !strings.HasPrefix(line, "#") {
				t.Errorf("%s: a shell would run %q", path, line)
			}
		}
	}
}

// Whatever changes between the line, the script and the build: it is an error.
func TestBuildsOfTwoSetsAreNeverMixed(t *testing.T) {
	b := newTestBuilds(t, map[string]string{"sessio-linux-amd64": "one", "sessio-linux-arm64": "arm"})
	_, old := b.told()
	b.put(b.dir, "sessio-linux-amd64", "two")
	// Not looked at again yet: the file itself is seen to be another.
	if status, body, _ := b.get("GET", "/b/"+oneSum+"/sessio-linux-amd64"); status != 404 || strings.Contains(body, "two") {
		t.Errorf("a replaced build: %d %q", status, body)
	}
	b.at = b.at.Add(buildsLook)
	_, fresh := b.told()
	if fresh == old {
		t.Error("the set has its old name")
	}
	if status, _, _ := b.get("GET", "/i/"+old); status != 404 {
		t.Errorf("the old line: %d", status)
	}
	if status, body, _ := b.get("GET", "/b/"+twoSum+"/sessio-linux-amd64"); status != 200 || body != "two" {
		t.Errorf("the new build: %d %q", status, body)
	}
	// Another file of the same size and time as before is another file.
	file := filepath.Join(b.dir, "sessio-linux-amd64")
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	b.put(b.dir, "sessio-linux-amd64", "one")
	if err := os.Chtimes(file, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	b.at = b.at.Add(buildsLook)
	if _, set := b.told(); set != old {
		t.Errorf("the set of old is called %s, then %s", old, set)
	}
	// What cannot be read leaves the set, and is said once.
	if err := os.Rename(b.dir, b.dir+".away"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		b.at = b.at.Add(buildsLook)
		if _, set := b.told(); set != old {
			t.Errorf("without the directory the set is %q", set)
		}
	}
	if len(b.said) != 1 || !strings.Contains(b.said[0], "no such file") {
		t.Errorf("logged: %q", b.said)
	}
	if status, _, _ := b.get("GET", "/b/"+oneSum+"/sessio-linux-amd64"); status != 404 {
		t.Errorf("a build that is away: %d", status)
	}
}

func TestBuildsRefuseAtStart(t *testing.T) {
	empty, full, odd := t.TempDir(), t.TempDir(), t.TempDir()
	for i := range maxBuilds + 1 {
		if err := os.WriteFile(filepath.Join(full, fmt.Sprint("sessio-", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(odd, "sessio-linux-amd64"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ dir, url, want string }{
		{empty, "https://a", "no file in it is called sessio-linux-"},
		{filepath.Join(empty, "none"), "https://a", "no such file"},
		{full, "https://a", "more than 32 builds"},
		{odd, "https://a", "sessio-linux-amd64 is no file"},
		{empty, "https://a/$(id)", "-url, which"},
	} {
		if _, err := openBuildDir(c.dir, c.url, time.Now, t.Logf); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: %v, want %q", c.dir, c.url, err, c.want)
		}
	}
}

// Who takes nothing holds a place, and no more than there are.
func TestBuildsDownloadsAreBounded(t *testing.T) {
	b := newTestBuilds(t, map[string]string{"sessio-linux-amd64": "one"})
	for range maxSending {
		b.sending <- struct{}{}
	}
	if status, _, head := b.get("GET", "/b/"+oneSum+"/sessio-linux-amd64"); status != 503 || head.Get("Retry-After") == "" {
		t.Errorf("one too many: %d %v", status, head)
	}
	<-b.sending
	if status, body, _ := b.get("GET", "/b/"+oneSum+"/sessio-linux-amd64"); status != 200 || body != "one" {
		t.Errorf("the last place: %d %q", status, body)
	}
	if len(b.sending) != maxSending-1 {
		t.Errorf("%d places are held", len(b.sending))
	}
}

// The server's limit for an answer is not that of a download.
func TestBuildsMayTakeLong(t *testing.T) {
	text := strings.Repeat("x", 3*sendChunk+1)
	b := newTestBuilds(t, map[string]string{"sessio-linux-amd64": text})
	srv := httptest.NewUnstartedServer(b)
	srv.Config.WriteTimeout = time.Nanosecond
	srv.Start()
	defer srv.Close()
	b.url = srv.URL
	if status, body, _ := b.get("GET", b.current().builds[0].path()); status != 200 || body != text {
		t.Errorf("status %d, %d bytes of %d", status, len(body), len(text))
	}
}
