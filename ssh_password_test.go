package main

import (
	"strings"
	"testing"
)

// passwordVectors were made by others: argon2 of its authors, and libxcrypt.
var passwordVectors = []struct{ pw, hash string }{
	{"correct horse", "$argon2id$v=19$m=19456,t=2,p=1$MDEyMzQ1Njc4OWFiY2RlZg$rk2Mi3E4dgRMg0fHaYaptWVZRKqs//6b6k3/nntqGJk"},
	{"pässwörd", "$argon2id$v=19$m=64,t=3,p=4$c2FsdHNhbHQ$h/pM2ufxAqrvOz8ZbICJYF9x7yhqfg+w"},
	{"correct", "$argon2id$v=19$m=128,t=1,p=16$c2FsdHNhbHRzYWx0c2FsdHNhbHRzYWx0c2FsdHNhbHQ$7EYa2S+iMsUF+PbegrVEvHNxvsOjlMShg8wllm2A6U0svHuAfYLBeV9PIOSpj7sx8CA+EqWdM7g2hMpqw0Cmvw"},
	{"correct horse", "$2b$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e"},
	{"correct horse", "$2y$05$......................GhrxO9Jau2W65tT0FKrnIWYcY5sAlLW"},
	{"correct horse", "$2a$04$ABCDEFGHIJKLMNOPQRSTUu6C6jEMz4jEJoFRTrM10b9xHpc.SH9E6"},
	{strings.Repeat("x", 80), "$2b$04$abcdefghijklmnopqrstuubzadhGtS2zEF.gu0yd0opP6cVzb.e0i"}, // bcrypt heeds 72
}

func TestPasswordHash(t *testing.T) {
	for _, v := range passwordVectors {
		h, err := parsePasswordHash(v.hash)
		if err != nil {
			t.Errorf("%s: %v", v.hash, err)
			continue
		}
		if !h.matches([]byte(v.pw)) {
			t.Errorf("%s does not match %q", v.hash, v.pw)
		}
		for _, wrong := range []string{"", v.pw[:len(v.pw)-len(v.pw)/2-1], strings.ToUpper(v.pw) + "!", "correct horsf"} {
			if h.matches([]byte(wrong)) {
				t.Errorf("%s matches %q", v.hash, wrong)
			}
		}
	}
	if got := hashPassword([]byte(passwordVectors[0].pw), []byte("0123456789abcdef")); got != passwordVectors[0].hash {
		t.Errorf("made %s", got)
	}
	if (passwordHash{}).matches(nil) {
		t.Error("no hash at all matches nothing")
	}
}

func TestPasswordHashWrong(t *testing.T) {
	const salt, key = "c2FsdHNhbHQ", "MDEyMzQ1Njc4OWFiY2RlZg"
	argon := func(params, salt, key string) string { return "$argon2id$v=19$" + params + "$" + salt + "$" + key }
	if _, err := parsePasswordHash(argon("m=8,t=1,p=1", salt, key)); err != nil {
		t.Fatal(err)
	}
	if _, err := parsePasswordHash(argon("m=262144,t=16,p=16", salt, key)); err != nil {
		t.Fatal(err)
	}
	bcrypt := passwordVectors[4].hash
	for hash, want := range map[string]string{
		"":        "no password hash",
		"secret":  "no password hash",
		"$":       "another kind",
		"!":       "no password hash",
		"$1$a$b":  "argon2id and bcrypt",
		"$6$a$b":  "argon2id and bcrypt",
		"$y$j9T$": "argon2id and bcrypt",
		"$argon2i$v=19$m=8,t=1,p=1$" + salt + "$" + key:  "another kind",
		"$argon2d$v=19$m=8,t=1,p=1$" + salt + "$" + key:  "another kind",
		"$argon2id$v=16$m=8,t=1,p=1$" + salt + "$" + key: "v=19",
		"$argon2id$m=8,t=1,p=1$" + salt + "$" + key:      "v=19",
		"$argon2id":                                            "v=19",
		argon("m=8,t=1,p=1", salt, key) + "$":                  "v=19",
		argon("m=7,t=1,p=1", salt, key):                        "m=8 to",
		argon("m=15,t=1,p=2", salt, key):                       "8 for each p",
		argon("m=262145,t=1,p=1", salt, key):                   "m=262144",
		argon("m=99999999999999999999,t=1,p=1", salt, key):     "m=262144",
		argon("m=08,t=1,p=1", salt, key):                       "m=8",
		argon("m=+8,t=1,p=1", salt, key):                       "m=8",
		argon("m=8,t=0,p=1", salt, key):                        "t=1",
		argon("m=8,t=17,p=1", salt, key):                       "t=16",
		argon("m=8,t=1,p=0", salt, key):                        "p=1",
		argon("m=256,t=1,p=17", salt, key):                     "p=16",
		argon("t=1,m=8,p=1", salt, key):                        "in this order",
		argon("m=8,t=1", salt, key):                            "in this order",
		argon("m=8,t=1,p=1,x=1", salt, key):                    "in this order",
		argon("m=8,t=1,p=1", "c2FsdA", key):                    "salt of 8",
		argon("m=8,t=1,p=1", strings.Repeat("AAAA", 22), key):  "salt of 8",
		argon("m=8,t=1,p=1", salt+"=", key):                    "base64",
		argon("m=8,t=1,p=1", "c2FsdHNhbHR", key):               "base64", // a bit that means nothing
		argon("m=8,t=1,p=1", salt, key[:20]):                   "hash of 16",
		argon("m=8,t=1,p=1", salt, ""):                         "hash of 16",
		argon("m=8,t=1,p=1", salt, strings.Repeat("AAAA", 22)): "hash of 16",
		argon("m=8,t=1,p=1", salt, key[:21]+"\n"):              "base64",
		bcrypt[:59]:       "53 letters",
		bcrypt + "x":      "53 letters",
		bcrypt[:59] + "!": "53 letters",
		strings.Replace(bcrypt, "$05$", "$03$", 1): "53 letters",
		strings.Replace(bcrypt, "$05$", "$5$0", 1): "53 letters",
		strings.Replace(bcrypt, "$05$", "$16$", 1): "4 to 15",
		strings.Replace(bcrypt, "$05$", "$32$", 1): "53 letters",
		strings.Replace(bcrypt, "$2y$", "$2x$", 1): "another kind",
		strings.Replace(bcrypt, "$2y$", "$2$", 1):  "another kind",
	} {
		_, err := parsePasswordHash(hash)
		if err == nil || !strings.Contains(err.Error(), want) || hintOf(err) == "" {
			t.Errorf("%s: %v, hint %q, want %q", hash, err, hintOf(err), want)
		} else if len(hash) > 20 && strings.Contains(err.Error(), hash[len(hash)-12:]) {
			t.Errorf("%s is shown: %v", hash, err)
		}
	}
}

// A hash that is accepted is answered and stays within its bounds.
func FuzzParsePasswordHash(f *testing.F) {
	for _, v := range passwordVectors {
		f.Add(v.hash)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parsePasswordHash(s)
		if err != nil {
			return
		}
		if h.bcrypt != nil {
			if string(h.bcrypt) != s {
				t.Errorf("%q is kept as %q", s, h.bcrypt)
			}
			return
		}
		if h.memory > maxArgonMemory || h.time > maxArgonTime || h.threads > maxArgonLanes || h.threads == 0 || len(h.key) < 16 {
			t.Errorf("%q: %+v", s, h)
		}
		if h.memory <= 64 && h.time <= 2 {
			h.matches([]byte("any"))
		}
	})
}
