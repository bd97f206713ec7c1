package main

import (
	"strings"
	"testing"
)

func TestParseForwardSpec(t *testing.T) {
	for in, want := range map[string]forwardSpec{
		"8080:localhost:80":           {listen: forwardEnd{port: 8080}, to: forwardEnd{host: "localhost", port: 80}},
		"0:h:1":                       {listen: forwardEnd{}, to: forwardEnd{host: "h", port: 1}},
		"10.0.0.1:8080:h:80":          {listen: forwardEnd{host: "10.0.0.1", port: 8080}, to: forwardEnd{host: "h", port: 80}},
		"*:8080:h:80":                 {listen: forwardEnd{host: "*", port: 8080}, to: forwardEnd{host: "h", port: 80}},
		":8080:h:80":                  {listen: forwardEnd{host: "*", port: 8080}, to: forwardEnd{host: "h", port: 80}},
		"localhost:65535:h:65535":     {listen: forwardEnd{host: "localhost", port: 65535}, to: forwardEnd{host: "h", port: 65535}},
		"[::1]:8080:[2001:db8::1]:80": {listen: forwardEnd{host: "::1", port: 8080}, to: forwardEnd{host: "2001:db8::1", port: 80}},
		"8080:[fe80::1%eth0]:80":      {listen: forwardEnd{port: 8080}, to: forwardEnd{host: "fe80::1%eth0", port: 80}},
		"/tmp/s:h:80":                 {listen: forwardEnd{path: "/tmp/s"}, to: forwardEnd{host: "h", port: 80}},
		"./s:h:80":                    {listen: forwardEnd{path: "./s"}, to: forwardEnd{host: "h", port: 80}},
		"8080:/run/x":                 {listen: forwardEnd{port: 8080}, to: forwardEnd{path: "/run/x"}},
		"[::1]:8080:/run/x":           {listen: forwardEnd{host: "::1", port: 8080}, to: forwardEnd{path: "/run/x"}},
		"/tmp/s:/run/x":               {listen: forwardEnd{path: "/tmp/s"}, to: forwardEnd{path: "/run/x"}},
	} {
		for _, back := range []bool{false, true} {
			want.back = back
			if got, err := parseForwardSpec(in, back); err != nil || got != want {
				t.Errorf("%s: %+v, %v", in, got, err)
			}
		}
	}
	for _, bad := range []string{"", ":", "8080", "8080:80", "8080:h", "8080:h:", "8080:h:0", "8080::80", "8080:h:65536",
		"08080:h:80", "+1:h:80", "-1:h:80", "x:h:80", "a:8080:h:80:9", "[::1:8080:h:80", "::1]:8080:h:80", "[]:1:h:1",
		"[::1]8080:h:80", "a[b]:1:h:1", "8080:h h:80", "/s:1:h:80", "/s", "h:80:/s:1", "8080:[h]x:80", "1:h:80:"} {
		if got, err := parseForwardSpec(bad, false); exitStatus(err) != 2 || !strings.Contains(err.Error(), "forward ") {
			t.Errorf("%q: %+v, %v", bad, got, err)
		}
	}
}

func FuzzParseForwardSpec(f *testing.F) {
	for _, seed := range []string{"8080:localhost:80", "[::1]:8080:[2001:db8::1]:80", "/tmp/s:/run/x", ":1:h:2", "*:0:h:1", "[a]:1:[b]:2"} {
		f.Add(seed, false)
		f.Add(seed, true)
	}
	f.Fuzz(func(t *testing.T, s string, back bool) {
		spec, err := parseForwardSpec(s, back)
		if err != nil {
			return
		}
		again, err := parseForwardSpec(spec.String(), back)
		if err != nil || again != spec {
			t.Fatalf("%q is %+v, written %q and read as %+v, %v", s, spec, spec, again, err)
		}
	})
}
