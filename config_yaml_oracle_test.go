package main

// These tests compare what parseYAML accepts with what a full reader of YAML
// (testdata/yaml) makes of the same bytes.

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// A yamlOracle is the full reader, under way.
type yamlOracle struct {
	mu  sync.Mutex // one question at a time
	in  io.Writer
	out io.Reader
}

// startYAMLOracle builds and starts it; it ends with the test.
func startYAMLOracle(tb testing.TB) *yamlOracle {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), "yaml")
	if out, err := exec.Command("go", "build", "-C", "testdata/yaml", "-o", file).CombinedOutput(); err != nil {
		tb.Fatalf("building testdata/yaml: %v\n%s", err, out)
	}
	cmd := exec.Command(file)
	cmd.Stderr = os.Stderr
	in, out := startPiped(tb, cmd)
	tb.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	return &yamlOracle{in: in, out: bufio.NewReader(out)}
}

// read is the form that the full reader gives a document.
func (o *yamlOracle) read(tb testing.TB, text []byte) string {
	tb.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, err := o.in.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)); err != nil {
		tb.Fatal(err)
	}
	var size [4]byte
	if _, err := io.ReadFull(o.out, size[:]); err != nil {
		tb.Fatal(err)
	}
	form := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(o.out, form); err != nil {
		tb.Fatal(err)
	}
	return string(form)
}

// agree compares a document that we accept; it reports whether we do.
func (o *yamlOracle) agree(tb testing.TB, text []byte) bool {
	tb.Helper()
	n, errs := parseYAML(text)
	if len(errs) > 0 {
		return false
	}
	ours, err := json.Marshal(yamlForm(n))
	if err != nil {
		tb.Fatal(err)
	}
	if theirs := o.read(tb, text); theirs != string(ours) {
		tb.Errorf("%q\n  is %s\nbut %s to a full reader", text, ours, theirs)
	}
	return true
}

// yamlForm is the form that testdata/yaml describes.
func yamlForm(n yamlNode) any {
	parts := []any{}
	switch n.kind {
	case yamlNull:
		return map[string]any{"n": nil}
	case yamlList:
		for _, item := range n.list {
			parts = append(parts, yamlForm(item))
		}
		return map[string]any{"l": parts}
	case yamlMap:
		for _, pair := range n.pairs {
			parts = append(parts, []any{pair.key, yamlForm(pair.value)})
		}
		return map[string]any{"m": parts}
	}
	if s, ok := n.str(); ok {
		return map[string]any{"s": s}
	}
	if v, ok := n.bool(); ok {
		return map[string]any{"b": v}
	}
	if v, ok := n.int(); ok {
		return map[string]any{"i": fmt.Sprint(v)}
	}
	if coreType(n.text) == 'i' { // more than 64 bits
		v, _ := new(big.Int).SetString(strings.TrimPrefix(n.text, "+"), 0)
		return map[string]any{"i": v.String()}
	}
	return map[string]any{"f": n.text}
}

func TestYAMLOracle(t *testing.T) {
	o := startYAMLOracle(t)
	for _, text := range yamlSeeds() {
		o.agree(t, []byte(text))
	}
}

// yamlSeeds are the documents of yamlRight.
func yamlSeeds() (texts []string) {
	for _, c := range yamlRight {
		texts = append(texts, c.text)
	}
	return texts
}

// FuzzYAMLOracle tries bytes as they are, and as choices by which a document is
// written: that one has to be accepted, unless one more choice spoils it.
func FuzzYAMLOracle(f *testing.F) {
	for i, text := range yamlSeeds() {
		f.Add([]byte(text), false)
		f.Add([]byte(strings.Repeat(text, 1+i%3)), true)
	}
	o := startYAMLOracle(f)
	f.Fuzz(func(t *testing.T, b []byte, written bool) {
		if !written {
			o.agree(t, b)
			return
		}
		w := &yamlWriter{choices: b}
		text := w.document()
		if !o.agree(t, text) {
			_, errs := parseYAML(text)
			t.Errorf("%q is refused: %v", text, errs)
		}
		for range 4 {
			o.agree(t, w.spoil(text))
		}
	})
}

// FuzzParseYAML holds that a document accepted means the same when it is written
// anew, and that errors name a line of the file.
func FuzzParseYAML(f *testing.F) {
	for _, text := range yamlSeeds() {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, errs := parseYAML(b)
		for _, err := range errs {
			var line int
			if _, scanErr := fmt.Sscanf(err.Error(), "line %d: ", &line); scanErr != nil || line < 1 || line > 1+strings.Count(string(b), "\n") {
				t.Errorf("%q: %v", b, err)
			}
		}
		shape := yamlShape(n)
		if len(errs) > 0 || len(shape) > maxYAMLKey {
			return
		}
		again, errs := parseYAML([]byte(shape))
		if got := yamlShape(again); len(errs) > 0 || got != shape {
			t.Errorf("%q\n  is %s\nbut %s, %v when written anew", b, shape, got, errs)
		}
	})
}
