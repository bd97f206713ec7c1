package main

// This file is the door of the program: it finds the role or verb that was
// asked for, runs it, and alone prints errors to people.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

func main() {
	if isNetChild(os.Args) {
		os.Exit(exitStatus(runNetChild()))
	}
	p := &program{stdio{os.Stdin, os.Stdout, os.Stderr}, time.Now}
	err := p.run(context.Background(), os.Args[1:])
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
	if strings.HasPrefix(args[0], "-") {
		return p.runRoles(ctx, args)
	}
	table := verbTable()
	v, rest := findVerb(table, args)
	if v != nil {
		return v.runVerb(ctx, p, rest)
	}
	if group := verbsUnder(table, args[0]); len(group) > 0 {
		if len(args) > 1 && isHelpFlag(args[1]) {
			_, err := p.out.WriteString(verbList(group))
			return err
		}
		return withHint(usageError("%s needs one more word", args[0]), "one of: %s", verbNames(group))
	}
	return unknownVerb(table, args[0])
}

func isHelpFlag(s string) bool { return s == "-h" || s == "-help" || s == "--help" }

// printError says on standard error what went wrong and what may help.
func (p *program) printError(err error) {
	if e := (*exitError)(nil); err == nil || errors.As(err, &e) && e.err == nil {
		return
	}
	fmt.Fprintf(p.err, "sessio: %s\n", printable(err.Error()))
	if hint := hintOf(err); hint != "" {
		fmt.Fprintf(p.err, "hint: %s\n", printable(hint))
	}
}
