package main

import (
	"fmt"
	"strings"
)

// A yamlWriter writes a document by choices, which are bytes.
type yamlWriter struct {
	choices []byte
	b       strings.Builder
	keys    int
}

// pick is the next choice of n; the first when there are no more.
func (w *yamlWriter) pick(n int) int {
	if len(w.choices) == 0 {
		return 0
	}
	c := int(w.choices[0])
	w.choices = w.choices[1:]
	return c % n
}

func (w *yamlWriter) oneOf(texts ...string) string { return texts[w.pick(len(texts))] }

func (w *yamlWriter) document() []byte {
	w.b.WriteString(w.oneOf("", "# c\n", "---\n", "\ufeff---  # c\r\n", "\n"))
	col := w.pick(3)
	w.b.WriteString(strings.Repeat(" ", col))
	w.block(col, 0, w.pick(2) == 1)
	return []byte(w.b.String())
}

// block writes a list or mapping whose first line has its indentation.
func (w *yamlWriter) block(col, depth int, list bool) {
	for i := 1 + w.pick(4); ; i-- {
		if list {
			w.b.WriteByte('-')
		} else {
			w.b.WriteString(w.key() + w.oneOf("", " ", "  ") + ":")
		}
		w.value(col, depth+1, list)
		if i == 1 {
			return
		}
		w.b.WriteString(strings.Repeat(" ", col))
	}
}

// value writes what stands behind a dash or a colon, to the end of a line.
func (w *yamlWriter) value(col, depth int, item bool) {
	in := col + 1 + w.pick(4)
	switch kind := w.pick(9); {
	case kind == 0:
	case kind < 4 || depth > 6:
		w.b.WriteString(w.oneOf(" ", "  ") + w.scalar(false))
	case kind < 6:
		w.b.WriteByte(' ')
		w.flow(col, depth)
	case kind == 6 && item: // on the line of the dash
		w.b.WriteString(strings.Repeat(" ", in-col))
		w.block(in+1, depth, w.pick(2) == 1)
		return
	case kind == 7 && !item: // a list in the column of its key
		w.b.WriteString("\n" + strings.Repeat(" ", col))
		w.block(col, depth, true)
		return
	default:
		w.b.WriteString(w.oneOf("\n", " # c\n", "\n\n", "\n  # c\n", "\r\n") + strings.Repeat(" ", in))
		if w.pick(5) > 0 {
			w.block(in, depth, w.pick(2) == 1)
			return
		}
		w.b.WriteString(w.scalar(false))
	}
	w.b.WriteString(w.oneOf("\n", " # c: [\n", "  \n", "\n\n", "\n# c\n", "\r\n"))
}

// flow writes a list or mapping in brackets.
func (w *yamlWriter) flow(col, depth int) {
	list := w.pick(2) == 1
	line := func() string { return "\n" + strings.Repeat(" ", col+1+w.pick(3)) }
	w.b.WriteString(map[bool]string{true: "[", false: "{"}[list])
	for n := w.pick(4); n > 0; n-- {
		w.b.WriteString(w.oneOf("", " ", line(), " # c"+line()))
		if !list {
			w.b.WriteString(w.key() + w.oneOf(": ", " : ", ":"+line(), ": # c"+line()))
		}
		if w.pick(3) == 1 && depth < 8 {
			w.flow(col, depth+1)
		} else {
			w.b.WriteString(w.scalar(true))
		}
		if n > 1 || w.pick(3) == 1 {
			w.b.WriteString(w.oneOf("", " ", line()) + ",")
		}
	}
	w.b.WriteString(w.oneOf("", " ", line()) + map[bool]string{true: "]", false: "}"}[list])
}

// key writes one that the document has not yet.
func (w *yamlWriter) key() string {
	w.keys++
	return fmt.Sprintf(w.oneOf("k%d", "'k %d'", `"k\x31-%d"`, "-k %d x", "k%d#", "?k'%d", `'it''s %d'`, ":k%d", "k:%d", "é%d", `"%d"`), w.keys)
}

func (w *yamlWriter) scalar(flow bool) string {
	switch w.pick(5) {
	case 0:
		return "'" + w.oneOf("", "a", "it''s", " a ", "''", "a: b # c", "[", "\t", `\`, "5", "true", "~", "\u00a0") + "'"
	case 1:
		return `"` + w.oneOf("", "a", `\"`, `\\`, `\n\t\r`, `\/`, `\x41\u00e9\U0001f600`, "a: b #c", `\0\a\b\v\f\e\ \N\_\L\P`, "\\\t", "'", "5", "null", "{") + `"`
	case 2:
		if !flow {
			return w.oneOf("a, b", "c]d{e}", "a[0]", "b{}", "-,", "a:,b", ":]", "?}")
		}
	}
	return w.oneOf("a", "b c", "5", "-5", "+7", "0", "0o17", "0x1F", "1.5", "-.5", "5.", "1e3", ".5E-2", "true", "False", "TRUE", "null", "Null", "~",
		"yes", "off", "a#b", "a:b", "::1", "http://c:1/d", "-k", "--", "?m", "1_0", "2001-01-01", "1:30", "é", "=", `a'b"c`, "<<", "...", "---", ".inf",
		"-.INF", ".NaN", "0b1", "0x", "0o8", "1e", "1.2.3", "a  b", "99999999999999999999", "a%b", "a&b*c!d|e>f@g`h", "日本", "a\\b", ".", "+", "n#", "12e03", "-0")
}

// spoil changes a little of a text.
func (w *yamlWriter) spoil(text []byte) []byte {
	at := (w.pick(256)<<8 | w.pick(256)) % (len(text) + 1)
	insert := w.oneOf("", " ", "\n", "\t", ":", ": ", "-", "- ", "#", " #", ",", "[", "]", "{", "}", "'", "\"", "\\", "?", "? ", "&a ", "*a", "!", "|", ">", "%", "\n  ", "\n- ",
		"\r", "\n---\n", "\n...", "<<: ", "0", ".", "e", "\u0085", "\u2028", "\ufeff", "\x00", "\xff", "k1: ", "a", "''", "\n\n", "@", "`", "~", "\u00a0", "\u3000")
	end := min(at+w.pick(3), len(text))
	return append(append(append([]byte{}, text[:at]...), insert...), text[end:]...)
}
