// Command yaml is a full reader of YAML, which the tests compare ours with. What
// a plain scalar is, it decides by the expressions of YAML 1.2.2, section 10.3.2:
// the reader it is built on knows those of 1.1 as well.
//
// It reads documents from standard input, each behind its length (4 bytes, big
// endian), and answers each with its form in JSON, likewise: {"s":"text"},
// {"i":"5"}, {"f":"1.5"} as written, {"b":true}, {"n":null}, {"l":[…]},
// {"m":[["key",…],…]}, or {"e":"what is wrong"}. It ends when the input does.
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"regexp"

	"go.yaml.in/yaml/v4"
)

func main() {
	if err := serve(bufio.NewReader(os.Stdin), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(in io.Reader, out io.Writer) error {
	for {
		var size [4]byte
		if _, err := io.ReadFull(in, size[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		text := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(in, text); err != nil {
			return err
		}
		form, err := read(text)
		if err != nil {
			form = map[string]any{"e": err.Error()}
		}
		b, err := json.Marshal(form)
		if err != nil {
			return err
		}
		if _, err := out.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)); err != nil {
			return err
		}
	}
}

// read returns the form of the only document.
func read(text []byte) (_ any, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the reader panics: %v", r)
		}
	}()
	d := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	if err := d.Decode(&doc); err == io.EOF {
		return map[string]any{"n": nil}, nil
	} else if err != nil {
		return nil, err
	}
	if err := d.Decode(&more); err != io.EOF {
		return nil, fmt.Errorf("a second document, or: %v", err)
	}
	return form(doc.Content[0])
}

func form(n *yaml.Node) (any, error) {
	if n.Anchor != "" || n.Style&yaml.TaggedStyle != 0 {
		return nil, errors.New("an anchor or a tag")
	}
	var parts = []any{}
	switch n.Kind {
	case yaml.ScalarNode:
		return scalar(n), nil
	case yaml.SequenceNode:
		for _, item := range n.Content {
			f, err := form(item)
			if err != nil {
				return nil, err
			}
			parts = append(parts, f)
		}
		return map[string]any{"l": parts}, nil
	case yaml.MappingNode:
		seen := map[string]bool{}
		for i := 0; i < len(n.Content); i += 2 {
			key := n.Content[i]
			if key.Kind != yaml.ScalarNode || scalar(key)["s"] == nil || seen[key.Value] {
				return nil, errors.New("a key that is no text, or stands there twice")
			}
			seen[key.Value] = true
			f, err := form(n.Content[i+1])
			if err != nil {
				return nil, err
			}
			parts = append(parts, []any{key.Value, f})
		}
		return map[string]any{"m": parts}, nil
	}
	return nil, fmt.Errorf("a node of kind %d", n.Kind)
}

var (
	isNull  = regexp.MustCompile(`^(null|Null|NULL|~|)$`)
	isBool  = regexp.MustCompile(`^(true|True|TRUE|false|False|FALSE)$`)
	isInt   = regexp.MustCompile(`^([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$`)
	isFloat = regexp.MustCompile(`^([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN)$`)
)

func scalar(n *yaml.Node) map[string]any {
	s := n.Value
	switch {
	case n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		return map[string]any{"s": s}
	case isNull.MatchString(s):
		return map[string]any{"n": nil}
	case isBool.MatchString(s):
		return map[string]any{"b": s[0]|' ' == 't'}
	case isInt.MatchString(s):
		base := 10
		if len(s) > 2 && (s[:2] == "0o" || s[:2] == "0x") {
			base, s = map[byte]int{'o': 8, 'x': 16}[s[1]], s[2:]
		}
		v, _ := new(big.Int).SetString(s, base)
		return map[string]any{"i": v.String()}
	case isFloat.MatchString(s):
		return map[string]any{"f": s}
	}
	return map[string]any{"s": s}
}
