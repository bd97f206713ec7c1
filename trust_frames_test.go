package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
)

// trustTestMsg is what all messages of the exchange have.
type trustTestMsg interface{ append(b []byte) []byte }

func trustTestParse(typ byte, body []byte) (trustTestMsg, error) {
	switch typ {
	case frameHello:
		return trustTestAsMsg(parseLogHello(body))
	case frameGet:
		return trustTestAsMsg(parseLogGet(body))
	case frameRecords:
		return trustTestAsMsg(parseLogRecords(body))
	case frameError:
		return trustTestAsMsg(parseLogError(body))
	}
	return nil, errors.New("no such type")
}

func trustTestAsMsg[M trustTestMsg](m M, err error) (trustTestMsg, error) { return m, err }

func trustTestHash(b byte) (h stmtHash) {
	copy(h[:], bytes.Repeat([]byte{b}, 32))
	return h
}

func TestTrustFrameBytes(t *testing.T) {
	aa, bb := strings.Repeat("aa", 32), strings.Repeat("bb", 32)
	for _, c := range []struct {
		name string
		typ  byte
		msg  trustTestMsg
		want string
	}{
		{"hello", frameHello, &logHelloMsg{acct: acctID(trustTestHash(0xaa)), tip: logTip{258, trustTestHash(0xbb)}, min: 1, max: 2, build: "v1",
			branches: []logTip{{3, trustTestHash(0xcc)}}},
			"01 00000078 " + aa + " 0000000000000102 " + bb + " 0001 0002 02 7631 01 0000000000000003 " + strings.Repeat("cc", 32)},
		{"empty hello", frameHello, &logHelloMsg{}, "01 0000004e " + strings.Repeat("00", 78)},
		{"get", frameGet, &logGetMsg{trustTestHash(0xbb), 1, 64}, "02 00000030 " + bb + " 0000000000000001 0000000000000040"},
		{"records", frameRecords, &logRecordsMsg{[][]byte{{1, 2}, nil}}, "03 0000000b 02 00000002 0102 00000000"},
		{"no records", frameRecords, &logRecordsMsg{}, "03 00000001 00"},
		{"error", frameError, &logErrorMsg{"denied"}, "04 00000007 06 64656e696564"},
	} {
		want, err := hex.DecodeString(strings.ReplaceAll(c.want, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		got := appendFrame(nil, c.typ, c.msg.append(nil))
		if !bytes.Equal(got, want) {
			t.Errorf("%s:\n%x\nwant\n%x", c.name, got, want)
		}
		typ, body, err := readFrame(bytes.NewReader(got), func(byte, int) error { return nil })
		if err != nil || typ != c.typ {
			t.Fatal(c.name, err)
		}
		back, err := trustTestParse(typ, body)
		if err != nil || !reflect.DeepEqual(back, c.msg) {
			t.Errorf("%s: %+v, %v", c.name, back, err)
		}
		// fields to come are ignored, but nothing stands behind records
		_, err = trustTestParse(typ, append(bytes.Clone(body), 0))
		if (err == nil) == (typ == frameRecords) {
			t.Errorf("%s with a tail: %v", c.name, err)
		}
		for i := range body {
			if _, err := trustTestParse(typ, body[:i]); err == nil {
				t.Errorf("%s cut to %d bytes is accepted", c.name, i)
			}
		}
	}
}

func TestTrustFrameMalformed(t *testing.T) {
	hello := (&logHelloMsg{build: "v1"}).append(nil)
	at := 32 + 8 + 32 + 4
	long := append(bytes.Clone(hello[:at]), maxLogBuild+1)
	long = append(append(long, bytes.Repeat([]byte("x"), maxLogBuild+1)...), 0)
	odd := bytes.Clone(hello)
	odd[at+1] = '\n'
	branches := bytes.Clone(hello)
	branches[len(branches)-1] = maxBranches + 1
	branches = append(branches, make([]byte, 40*(maxBranches+1))...)
	many := append([]byte{maxReplyRecords + 1}, make([]byte, 4*(maxReplyRecords+1))...)
	for name, c := range map[string]struct {
		typ  byte
		body []byte
	}{
		"long build":       {frameHello, long},
		"build with lines": {frameHello, odd},
		"nine branches":    {frameHello, branches},
		"backwards":        {frameGet, (&logGetMsg{from: 2, to: 1}).append(nil)},
		"65 records":       {frameRecords, many},
		"huge record":      {frameRecords, (&logRecordsMsg{[][]byte{make([]byte, maxRecord+1)}}).append(nil)},
		"no code":          {frameError, (&logErrorMsg{""}).append(nil)},
		"odd code":         {frameError, (&logErrorMsg{"a\x1bb"}).append(nil)},
		"long code":        {frameError, (&logErrorMsg{strings.Repeat("a", maxErrorCode+1)}).append(nil)},
	} {
		if _, err := trustTestParse(c.typ, c.body); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	never := func(byte, int) error { t.Error("asked"); return nil }
	if _, _, err := readFrame(bytes.NewReader([]byte{1, 0, 1, 0, 1}), never); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Error(err)
	}
	refuse := errors.New("no")
	if _, _, err := readFrame(bytes.NewReader([]byte{1, 0, 1, 0, 0}), func(byte, int) error { return refuse }); err != refuse {
		t.Error(err)
	}
	for _, cut := range [][]byte{{1, 0, 0, 0, 2, 7}, {1, 0, 0}} {
		if _, _, err := readFrame(bytes.NewReader(cut), func(byte, int) error { return nil }); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(err)
		}
	}
}

func FuzzParseFrame(f *testing.F) {
	k := newTrustTestAcct(f)
	for typ, m := range map[byte]trustTestMsg{
		frameHello:   &logHelloMsg{acct: k.state.acct(), min: 1, max: 1, build: "x", branches: []logTip{{}}},
		frameGet:     &logGetMsg{k.state.head(), 0, 63},
		frameRecords: &logRecordsMsg{k.raws},
		frameError:   &logErrorMsg{"denied"},
	} {
		f.Add(appendFrame(nil, typ, m.append(nil)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		typ, body, err := readFrame(bytes.NewReader(b), func(byte, int) error { return nil })
		if err != nil {
			return
		}
		m, err := trustTestParse(typ, body)
		if err != nil {
			return
		}
		out := m.append(nil)
		if !bytes.HasPrefix(body, out) {
			t.Fatalf("%x is written as %x", body, out)
		}
		if back, err := trustTestParse(typ, out); err != nil || !reflect.DeepEqual(back, m) {
			t.Fatalf("%+v, %v", back, err)
		}
	})
}
