package main

// This file is the door of the program: it finds the role or verb that was
// asked for, runs it, and alone prints errors to people. It has the table of
// verbs, and the help that is made of it.

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

func main() {
	processors.limit()
	if isNetChild(os.Args) {
		os.Exit(exitStatus(runNetChild()))
	}
	if isFilesChild(os.Args) {
		os.Exit(exitStatus(runFilesChild()))
	}
	p := &program{stdio: stdio{os.Stdin, os.Stdout, os.Stderr}, now: time.Now}
	args := os.Args[1:]
	if words := sftpServerArgs(os.Args); words != nil {
		args = words
	}
	err := p.run(context.Background(), args)
	p.printError(err)
	os.Exit(exitStatus(err))
}

// run does what the words after the program's name say.
func (p *program) run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		p.err.WriteString(helpText())
		return &exitError{status: 2}
	}
	if isHelpFlag(args[0]) {
		_, err := p.out.WriteString(helpText())
		return err
	}
	if args[0] == "-version" || args[0] == "--version" {
		return withHint(usageError("there is no flag %s", args[0]), "sessio version says which program this is")
	}
	if strings.HasPrefix(args[0], "-") {
		return p.runRoles(ctx, args)
	}
	table := verbTable()
	v, rest := findVerb(table, args)
	if v != nil {
		err := v.runVerb(ctx, p, rest)
		p.endPage(err)
		return err
	}
	for n := len(args); n > 0; n-- {
		words := strings.Join(args[:n], " ")
		switch group := verbsUnder(table, words); {
		case len(group) == 0:
			continue
		case n < len(args) && isHelpFlag(args[n]):
			_, err := p.out.WriteString(verbList(group))
			return err
		case n == len(args) || strings.HasPrefix(args[n], "-"):
			return withHint(usageError("%s needs one more word", words), "one of: %s", verbNames(group))
		default:
			return withHint(usageError("there is no verb %q", words+" "+args[n]), "one of: %s", verbNames(group))
		}
	}
	return unknownVerb(table, args[0])
}

func isHelpFlag(s string) bool { return s == "-h" || s == "-help" || s == "--help" }

// printError says on standard error what went wrong and what may help.
func (p *program) printError(err error) {
	if e := (*exitError)(nil); err == nil || errors.As(err, &e) && e.err == nil {
		return
	}
	sayError(p.err, "sessio", err)
}

// verbTable lists every verb in the order of the help.
func verbTable() []verb {
	return []verb{
		accountCreateVerb(), accountSigninVerb(), ticketVerb(), joinVerb(),
		trustPendingVerb(), trustSignVerb(), trustAddVerb(), trustRevokeVerb(), trustUpdateVerb(),
		signerListVerb(), signerAddVerb(), signerRemoveVerb(), trustRecoverVerb(),
		trustLogVerb(), trustExportVerb(), trustFsckVerb(), trustResetVerb(),
		statusVerb(), shellVerb(), runVerb(), cpVerb(), sftpVerb(), forwardStartVerb(), forwardListVerb(), forwardStopVerb(), proxyVerb(), sshConfigVerb(), pingVerb(), netcheckVerb(),
		sessionsListVerb(), sessionsKillVerb(), sessionsRevokeVerb(), sessionsStatsVerb(),
		sessionsBanVerb(), sessionsUnbanVerb(), sessionsBansVerb(),
		installVerb(), uninstallVerb(),
		genConfigVerb(), checkConfigVerb(), genHostKeyVerb(), hashPasswordVerb(), sftpServerVerb(),
		versionVerb(),
		helpVerb(),
	}
}

// helpText is what "sessio help" shows, and the README.
func helpText() string {
	var b strings.Builder
	b.WriteString("Sessio: a shell, files and ports on your own machines, peer to peer.\n\n")
	b.WriteString("Roles, in the foreground until stopped; one process may have both:\n")
	fmt.Fprintf(&b, "  sessio %s\n      the meeting point that introduces machines to each other\n", coordinatorUsage)
	fmt.Fprintf(&b, "  sessio %s\n      a machine that may be entered, or lends its links to the verbs run beside it\n\n", deviceUsage)
	b.WriteString("Verbs (each takes -dir D, and shows more with -h):\n")
	b.WriteString(verbList(verbTable()))
	return b.String()
}

func verbList(table []verb) string {
	var b strings.Builder
	for _, v := range table {
		fmt.Fprintf(&b, "  sessio %s\n      %s\n", strings.TrimSpace(v.name+" "+v.usage), v.summary)
	}
	return b.String()
}

func verbNames(table []verb) string {
	var names []string
	for _, v := range table {
		names = append(names, v.name)
	}
	return strings.Join(names, ", ")
}

func helpVerb() verb {
	return verb{name: "help", usage: "[VERB]", summary: "this list, or what a verb does", setup: func(*flag.FlagSet) verbRun {
		return func(_ context.Context, p *program, o operands) error {
			words := o.all()
			if len(words) == 0 {
				_, err := p.out.WriteString(helpText())
				return err
			}
			if strings.TrimLeft(words[0], "-") == roleDevice || strings.TrimLeft(words[0], "-") == roleCoordinator {
				_, err := p.out.WriteString(rolesHelp())
				return err
			}
			table := verbTable()
			if v, rest := findVerb(table, words); v != nil && len(rest) == 0 {
				_, err := p.out.WriteString(v.help())
				return err
			}
			if group := verbsUnder(table, strings.Join(words, " ")); len(group) > 0 {
				_, err := p.out.WriteString(verbList(group))
				return err
			}
			return unknownVerb(table, strings.Join(words, " "))
		}
	}}
}

// unknownVerb says so, and what may have been meant.
func unknownVerb(table []verb, word string) error {
	var firsts []string
	for _, v := range table {
		first, _, _ := strings.Cut(v.name, " ")
		firsts = append(firsts, first)
	}
	err := usageError("there is no verb %q", word)
	if near := nearest(word, slices.Compact(firsts)); len(near) > 0 {
		return withHint(err, "did you mean %s?", strings.Join(near, " or "))
	}
	return withHint(err, "sessio help lists the verbs")
}

// versionInfo is what version -json shows.
type versionInfo struct {
	Version string    `json:"version"`
	Built   time.Time `json:"built,omitzero"`
	Go      string    `json:"go"`
	OS      string    `json:"os"`
	Arch    string    `json:"arch"`
}

func versionVerb() verb {
	return verb{name: "version", usage: "[-json]", summary: "which program this is", bare: true, setup: func(f *flag.FlagSet) verbRun {
		asJSON := f.Bool("json", false, "as one JSON object")
		return func(_ context.Context, p *program, _ operands) error {
			v := versionInfo{Version: version, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
			if built := buildTime(); built.Unix() != 0 {
				v.Built = built.UTC()
			}
			if *asJSON {
				return json.NewEncoder(p.out).Encode(v)
			}
			_, err := fmt.Fprintf(p.out, "sessio %s %s/%s %s\n", v.Version, v.OS, v.Arch, v.Go)
			return err
		}
	}}
}
