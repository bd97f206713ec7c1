package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What the README says can be typed is what the program says.
func TestReadmeHelp(t *testing.T) {
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), "```\n"+helpText()+"```\n") {
		t.Error("README.md does not hold what sessio help prints")
	}
}

// The keys of the configuration in the README are those of the program.
func TestReadmeConfig(t *testing.T) {
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), "```yaml\n"+configFileText()+"```\n") {
		t.Error("README.md does not hold what sessio gen-config writes")
	}
}

// Every command in the documents is one that the program takes.
func TestReadmeCommands(t *testing.T) {
	shown := regexp.MustCompile("(?m)(?:^(?:[a-z]+\\$ )?(?:sudo )?|`|run: )sessio ([^`\n]*)")
	for _, file := range []string{"README.md", "DESIGN.md"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		body := strings.ReplaceAll(string(b), helpText(), "")
		found := shown.FindAllStringSubmatch(body, -1)
		if len(found) == 0 {
			t.Errorf("%s shows no command", file)
		}
		for _, m := range found {
			line, _, _ := strings.Cut(m[1], "  ")
			line, _, _ = strings.Cut(line, " >")
			checkShown(t, file, strings.Fields(strings.TrimRight(line, ",.:;")))
		}
	}
}

func checkShown(t *testing.T, file string, words []string) {
	t.Helper()
	if len(words) == 0 || words[0] == "…" {
		return
	}
	if strings.HasPrefix(words[0], "-") {
		if _, err := parseRoles(words); err != nil {
			t.Errorf("%s: sessio %s: %v", file, strings.Join(words, " "), err)
		}
		return
	}
	v, rest := findVerb(verbTable(), words)
	if v == nil {
		if len(verbsUnder(verbTable(), words[0])) == 0 {
			t.Errorf("%s: sessio %s: no such verb", file, strings.Join(words, " "))
		}
		return
	}
	f := newFlagSet(v.name)
	v.setup(f)
	if _, err := v.parse(f, rest); err != nil {
		t.Errorf("%s: sessio %s: %v", file, strings.Join(words, " "), err)
	}
}

// Every flag of a verb, but -dir, stands in its usage line.
func TestUsageNamesFlags(t *testing.T) {
	for _, v := range verbTable() {
		for line := range strings.SplitSeq(v.help(), "\n") {
			name, ok := strings.CutPrefix(line, "  -")
			if !ok {
				continue
			}
			name, _, _ = strings.Cut(name, " ")
			if name != "dir" && !regexp.MustCompile(`[[ ]-`+name+`\b`).MatchString(" "+v.usage) {
				t.Errorf("%s: -%s is missing in %q", v.name, name, v.usage)
			}
		}
	}
	for line := range strings.SplitSeq(rolesHelp(), "\n") {
		name, ok := strings.CutPrefix(line, "  -")
		if !ok {
			continue
		}
		name, _, _ = strings.Cut(name, " ")
		if name != "D" && !regexp.MustCompile(`[[ ]-`+name+`\b`).MatchString(" "+coordinatorUsage+" "+deviceUsage) {
			t.Errorf("roles: -%s is missing in the usage", name)
		}
	}
}

// Every stable code stands in DESIGN.md.
func TestDesignCodes(t *testing.T) {
	design, err := os.ReadFile("DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	_, codes, ok := strings.Cut(string(design), "\n## Codes\n")
	if !ok {
		t.Fatal("DESIGN.md has no chapter on codes")
	}
	known := strings.FieldsFunc(codes, func(r rune) bool { return !(r >= 'a' && r <= 'z' || r == '-') })
	made := regexp.MustCompile(`\bcoded\("([a-z-]+)"`)
	for _, file := range sourceFiles(t, false) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range made.FindAllStringSubmatch(string(b), -1) {
			if !slices.Contains(known, m[1]) {
				t.Errorf("%s: the code %s is missing in DESIGN.md", file, m[1])
			}
		}
	}
}
