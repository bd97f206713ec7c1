package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParsePasswdLine(t *testing.T) {
	for _, c := range []struct {
		line string
		want osAccount
		ok   bool
	}{
		{"root:x:0:0:root:/root:/bin/bash", osAccount{name: "root", home: "/root", shell: "/bin/bash"}, true},
		{"a.b:x:1000:100:A, B,:/home/a b:", osAccount{name: "a.b", uid: 1000, gid: 100, home: "/home/a b", shell: "/bin/sh", noShell: true}, true},
		{"n:x:4294967294:4294967294:::/x", osAccount{name: "n", uid: 4294967294, gid: 4294967294, shell: "/x"}, true},
		{"n:x:4294967295:0:::/x", osAccount{}, false}, // (uid_t)-1: leave as it is
		{"n:x:4294967296:0:::/x", osAccount{}, false},
		{"n:x::0:::/x", osAccount{}, false},
		{"n:x:-1:0:::/x", osAccount{}, false},
		{"n:x:+1:0:::/x", osAccount{}, false},
		{"n:x:0x0:0:::/x", osAccount{}, false},
		{"n:x:1:0::/x", osAccount{}, false},
		{"n:x:1:0::/x:/x:/x", osAccount{}, false},
		{"+::0:0:::", osAccount{}, false},
		{"+nis:x:0:0:::", osAccount{}, false},
		{"#n:x:0:0:::", osAccount{}, false},
		{"1000:x:0:0:::", osAccount{}, false},
		{"-v:x:0:0:::", osAccount{}, false},
		{"n:x:1:1::/a\x00b:/x", osAccount{}, false},
		{"", osAccount{}, false},
	} {
		got, ok := parsePasswdLine(c.line)
		if ok != c.ok || fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%q: %+v %v", c.line, got, ok)
		}
	}
}

func TestPickAccount(t *testing.T) {
	passwd := "broken\nann:x:0x1:1::/:/bin/sh\nann:x:7:8::/ann:/bin/sh\r\nann:x:0:0::/:/bin/sh\nlast:x:9:9::/:/bin/sh"
	ann, ok := pickAccount(passwd, func(a osAccount) bool { return a.name == "ann" })
	if !ok || ann.uid != 7 || ann.home != "/ann" || ann.shell != "/bin/sh" {
		t.Errorf("%+v %v", ann, ok)
	}
	if last, ok := pickAccount(passwd, func(a osAccount) bool { return a.uid == 9 }); !ok || last.name != "last" {
		t.Errorf("%+v %v", last, ok)
	}
	if got, ok := pickAccount(passwd, func(a osAccount) bool { return a.name == "an" }); ok {
		t.Errorf("%+v", got)
	}
}

func TestGroupsOf(t *testing.T) {
	group := "root:x:0:\nadm:x:4:ann,bob\nbroken:x:y:ann\nwheel:x:10:bob,ann\nann:x:1000:ann\nlike:x:11:anna,xann\n+:::\nmax:x:4294967295:ann"
	if got := groupsOf(group, "ann", 1000); !slices.Equal(got, []uint32{1000, 4, 10}) {
		t.Error(got)
	}
	if got := groupsOf(group, "nobody", 65534); !slices.Equal(got, []uint32{65534}) {
		t.Error(got)
	}
	if got := groupsOf("", "", 5); !slices.Equal(got, []uint32{5}) {
		t.Error(got)
	}
}

func FuzzParsePasswd(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/bash")
	f.Add("a:x:1:2:::")
	f.Add("+::::::")
	f.Fuzz(func(t *testing.T, line string) {
		a, ok := parsePasswdLine(line)
		if !ok {
			if a.name != "" || a.shell != "" {
				t.Errorf("%q: refused, and yet %+v", line, a)
			}
			return
		}
		shell := a.shell
		if a.noShell {
			shell = ""
		}
		again, ok := parsePasswdLine(fmt.Sprintf("%s:x:%d:%d::%s:%s", a.name, a.uid, a.gid, a.home, shell))
		if !ok || fmt.Sprint(again) != fmt.Sprint(a) {
			t.Errorf("%q: %+v became %+v %v", line, a, again, ok)
		}
		if !plausibleLogin(a.name) || a.uid == 1<<32-1 {
			t.Errorf("%q: %+v", line, a)
		}
	})
}

func FuzzParseGroup(f *testing.F) {
	f.Add("adm:x:4:ann,bob")
	f.Add("tty:x:5:")
	f.Add(":::")
	f.Fuzz(func(t *testing.T, line string) {
		g, members, ok := parseGroupLine(line)
		if !ok {
			return
		}
		again, members2, ok := parseGroupLine(fmt.Sprintf("%s:x:%d:%s", g.name, g.gid, strings.Join(members, ",")))
		if !ok || again != g || !slices.Equal(members, members2) {
			t.Errorf("%q: %+v %q became %+v %q", line, g, members, again, members2)
		}
	})
}

// The last day of an account is one of its days.
func TestAccountExpired(t *testing.T) {
	const shadow = "root:*:19000:0:99999:7:::\nold:$y$x:19000:0:99999:7::20000:\nlocked:!$y$x:19000:0:99999:7:::\nodd:x:1:::::-1:\nbad:x:1:::::soon:\nshort:x:1\nclosed:x:1:::::0:\n"
	day := func(n int64) time.Time { return time.Unix(n*24*60*60, 0) }
	for _, c := range []struct {
		user    string
		now     time.Time
		expired bool
	}{
		{"old", day(20000), false}, {"old", day(20001).Add(-time.Second), false}, {"old", day(20001), true},
		{"closed", day(20000), true}, {"root", day(90000), false}, {"locked", day(90000), false}, {"odd", day(90000), false},
		{"bad", day(90000), false}, {"short", day(90000), false}, {"nobody", day(90000), false}, {"ol", day(90000), false},
	} {
		if got := accountExpired(shadow, c.user, c.now); got != c.expired {
			t.Errorf("%s at %v: %v", c.user, c.now, got)
		}
	}
}

// FuzzAccountExpired: nobody is expired by a line that is another's.
func FuzzAccountExpired(f *testing.F) {
	f.Add("a:x:1:2:3:4:5:6:7\n", "a", int64(7*24*60*60))
	f.Fuzz(func(t *testing.T, shadow, user string, now int64) {
		if accountExpired(shadow, user, time.Unix(now, 0)) && !strings.Contains("\n"+shadow, "\n"+user+":") {
			t.Errorf("%q has no line", user)
		}
	})
}
